//! Source filters of multicast groups: functions of the C library that set options past `setsockopt()`.

use core::ffi::c_int;

use libc::{in_addr, sockaddr, sockaddr_storage, socklen_t};

use super::followed;
use crate::{
    address::{Ip, Name, mapped},
    attach, real,
    shared::state,
};

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn setsourcefilter(
    fd: c_int,
    interface: u32,
    group: *const sockaddr,
    len: socklen_t,
    mode: u32,
    count: u32,
    sources: *const sockaddr_storage,
) -> c_int {
    // SAFETY: the program's promise.
    let result = unsafe { real::setsourcefilter(fd, interface, group, len, mode, count, sources) };
    if result == 0
        // SAFETY: the C library has read it.
        && let Some(name) = unsafe { Name::read(group.cast(), len) }
    {
        filtered(fd, &name.ip);
    }
    result
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn setipv4sourcefilter(
    fd: c_int,
    interface: in_addr,
    group: in_addr,
    mode: u32,
    count: u32,
    sources: *const in_addr,
) -> c_int {
    // SAFETY: the program's promise.
    let result = unsafe { real::setipv4sourcefilter(fd, interface, group, mode, count, sources) };
    if result == 0 {
        filtered(fd, &mapped(group.s_addr.to_ne_bytes()));
    }
    result
}

fn filtered(fd: c_int, group: &Ip) {
    if let Some((_inside, socket)) = followed(fd)
        && socket.shared().state() != state::PLAIN
    {
        attach::joined(fd, socket.shared(), group);
    }
}
