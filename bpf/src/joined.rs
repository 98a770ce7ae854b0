//! Whether a socket of a compartment is in a group still: asked of the kernel's own lists (`prog/membership.h`).

use std::{
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use libbpf_rs::libbpf_sys;

use crate::skel::{
    Plain,
    confine_types::{afnet_port_key, afnet_replicated},
};

/// Of an Ethernet header.
const HEADER: usize = 14;

/// A socket that is bound to a port on all addresses, and a group that it may have joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Joined {
    /// Its compartment.
    pub slot: u32,
    /// SO_COOKIE.
    pub cookie: u64,
    /// What it is bound to.
    pub port: u16,
    /// Device.
    pub ifindex: u32,
    /// Group.
    pub group: IpAddr,
}

/// Runs the program: a number of this time in the group; `None`: it is not, or the port's sockets hide it.
pub(crate) fn ask(program: BorrowedFd<'_>, at: &afnet_port_key, asked: &afnet_replicated) -> Option<u32> {
    let mut frame = vec![0; HEADER];
    frame.extend_from_slice(at.bytes());
    frame.extend_from_slice(asked.bytes());
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as u64,
        data_in: frame.as_ptr().cast(),
        data_size_in: u32::try_from(frame.len()).unwrap_or(0),
        repeat: 1,
        ..Default::default()
    };
    // SAFETY: the frame is as long as the options say, and lives through the call.
    let answer = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) };
    (answer == 0 && options.retval != 0).then_some(options.retval)
}
