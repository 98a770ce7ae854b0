//! XDP programs and devices: which one is attached, and attaching one. Needs CAP_NET_ADMIN, and CAP_SYS_ADMIN to
//! open a program that somebody else has attached.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use libbpf_rs::libbpf_sys::{self, bpf_link_create_opts};

/// How a program is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// By the driver, or generic where the driver has no XDP: the kernel's choice.
    Any,
    /// By the driver, before there is an skb.
    Native,
    /// By the stack: every frame is an skb first.
    Generic,
}

impl Attach {
    fn flags(self) -> u32 {
        match self {
            Self::Any => 0,
            Self::Native => libbpf_sys::XDP_FLAGS_DRV_MODE,
            Self::Generic => libbpf_sys::XDP_FLAGS_SKB_MODE,
        }
    }
}

/// Attaches an XDP program to an interface of the calling thread's namespace, until the descriptor is closed.
///
/// # Errors
/// What the kernel says; EBUSY if another program is attached.
pub fn attach(program: BorrowedFd<'_>, ifindex: u32, how: Attach) -> io::Result<OwnedFd> {
    let options = bpf_link_create_opts {
        sz: size_of::<bpf_link_create_opts>() as u64,
        flags: how.flags(),
        ..Default::default()
    };
    let ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
    // SAFETY: plain numbers, and options that live through the call.
    owned(unsafe {
        libbpf_sys::bpf_link_create(program.as_raw_fd(), ifindex, libbpf_sys::BPF_XDP, &raw const options)
    })
}

/// Id of the XDP program on an interface of the calling thread's namespace.
///
/// # Errors
/// What the kernel says; no program is no error.
pub fn attached(ifindex: u32) -> io::Result<Option<u32>> {
    let ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
    let mut id = 0;
    // SAFETY: a plain number and a place for the answer.
    let result = unsafe { libbpf_sys::bpf_xdp_query_id(ifindex, 0, &raw mut id) };
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    Ok((id != 0).then_some(id))
}

/// Opens a loaded program.
///
/// # Errors
/// What the kernel says.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: a plain number.
    owned(unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) })
}

/// A descriptor that libbpf returned, or its error.
fn owned(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
