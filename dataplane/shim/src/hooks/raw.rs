//! syscall(): the calls of the other hooks by their numbers. System calls without the C library pass by unseen; of an
//! io_uring that is made here only that it is there.

use core::{
    ffi::{c_int, c_long},
    ptr::{with_exposed_provenance as at, with_exposed_provenance_mut as at_mut},
};

use super::{data, life, processes, readiness};
use crate::{process, real};

#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "as the kernel takes them")]
const fn int(argument: usize) -> c_int {
    argument as c_int
}

#[expect(clippy::cast_possible_truncation, reason = "as the kernel takes them")]
const fn uint(argument: usize) -> u32 {
    argument as u32
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    let fd = int(a);
    // SAFETY: the program's promise, which is that of the function called.
    unsafe {
        match number {
            libc::SYS_read => data::read(fd, at_mut(b), c) as c_long,
            libc::SYS_write => data::write(fd, at(b), c) as c_long,
            libc::SYS_readv => data::readv(fd, at(b), int(c)) as c_long,
            libc::SYS_writev => data::writev(fd, at(b), int(c)) as c_long,
            libc::SYS_sendto => data::sendto(fd, at(b), c, int(d), at(e), uint(f)) as c_long,
            libc::SYS_recvfrom => data::recvfrom(fd, at_mut(b), c, int(d), at_mut(e), at_mut(f)) as c_long,
            libc::SYS_sendmsg => data::sendmsg(fd, at(b), int(c)) as c_long,
            libc::SYS_recvmsg => data::recvmsg(fd, at_mut(b), int(c)) as c_long,
            libc::SYS_sendmmsg => data::sendmmsg(fd, at_mut(b), uint(c), int(d)).into(),
            libc::SYS_recvmmsg => data::recvmmsg(fd, at_mut(b), uint(c), int(d), at_mut(e)).into(),
            libc::SYS_socket => life::socket(fd, int(b), int(c)).into(),
            libc::SYS_bind => life::bind(fd, at(b), uint(c)).into(),
            libc::SYS_connect => life::connect(fd, at(b), uint(c)).into(),
            libc::SYS_shutdown => life::shutdown(fd, int(b)).into(),
            libc::SYS_setsockopt => life::setsockopt(fd, int(b), int(c), at(d), uint(e)).into(),
            libc::SYS_getsockopt => life::getsockopt(fd, int(b), int(c), at_mut(d), at_mut(e)).into(),
            libc::SYS_ioctl => life::ioctl(fd, b, c).into(),
            libc::SYS_fcntl => life::fcntl(fd, int(b), c).into(),
            libc::SYS_close => life::close(fd).into(),
            libc::SYS_close_range => life::close_range(uint(a), uint(b), int(c)).into(),
            libc::SYS_dup => life::dup(fd).into(),
            libc::SYS_dup3 => life::dup3(fd, int(b), int(c)).into(),
            libc::SYS_epoll_ctl => readiness::epoll_ctl(fd, int(b), int(c), at_mut(d)).into(),
            // The kernel's take a mask's length, too; one without a mask, which is the rule, is the library's call.
            libc::SYS_epoll_pwait if e == 0 => readiness::epoll_wait(fd, at_mut(b), int(c), int(d)).into(),
            libc::SYS_epoll_pwait2 if e == 0 => {
                readiness::epoll_pwait2(fd, at_mut(b), int(c), at(d), core::ptr::null()).into()
            }
            libc::SYS_ppoll if d == 0 => {
                readiness::ppoll(at_mut(a), b as libc::nfds_t, at(c), core::ptr::null()).into()
            }
            libc::SYS_io_uring_setup => {
                let ring = real::syscall(number, a, b, c, d, e, f);
                if ring >= 0 {
                    process::has_io_uring();
                }
                ring
            }
            libc::SYS_execve => processes::execve(at(a), at(b), at(c)).into(),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_epoll_wait => readiness::epoll_wait(fd, at_mut(b), int(c), int(d)).into(),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_poll => readiness::poll(at_mut(a), b as libc::nfds_t, int(c)).into(),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_dup2 => life::dup2(fd, int(b)).into(),
            _ => real::syscall(number, a, b, c, d, e, f),
        }
    }
}
