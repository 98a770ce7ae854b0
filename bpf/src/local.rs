//! The hook at the ingress of `lo` (`prog/local.h`): TCX where the kernel has it (6.6), else a clsact filter.
//!
//! TCX programs of several devices stand side by side and end with their link, so also when the daemon is
//! killed. A clsact filter stays then; the next daemon replaces it, since its handle is the device's index.

use std::{
    ffi::CStr,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use libbpf_rs::{TC_INGRESS, TcHook, TcHookBuilder, libbpf_sys};

use crate::Error;

/// Priority of the clsact filter: early, and the same for all devices.
const PRIORITY: u32 = 1;
const LO: &CStr = c"lo";

/// An attachment, removed on drop.
#[derive(Debug)]
pub(crate) struct LocalHook {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    #[expect(dead_code, reason = "held for its drop, which detaches")]
    Tcx(OwnedFd),
    Filter(TcHook),
}

impl LocalHook {
    /// Attaches `program` to the loopback device of the calling thread's network namespace; `handle` tells the
    /// filters of several devices apart.
    pub fn attach(program: BorrowedFd<'_>, handle: u32) -> Result<Self, Error> {
        // SAFETY: a NUL-terminated name.
        let lo = unsafe { libc::if_nametoindex(LO.as_ptr()) };
        let lo = i32::try_from(lo).ok().filter(|lo| *lo != 0).ok_or(Error::NoDevice(0))?;
        let kind = match Self::tcx(program, lo) {
            Ok(link) => Kind::Tcx(link),
            // EINVAL: a kernel that does not know the attach type.
            Err(e) if e.errno() == Some(libc::EINVAL) => Kind::Filter(Self::filter(program, lo, handle)?),
            Err(e) => return Err(e),
        };
        Ok(Self { kind })
    }

    fn tcx(program: BorrowedFd<'_>, lo: i32) -> Result<OwnedFd, Error> {
        // SAFETY: a valid file descriptor and no options.
        let fd = unsafe {
            libbpf_sys::bpf_link_create(
                program.as_raw_fd(),
                lo,
                libbpf_sys::BPF_TCX_INGRESS,
                std::ptr::null(),
            )
        };
        match fd {
            // SAFETY: the kernel just gave it to us.
            0.. => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            e => Err(Error::answer("attach to the ingress of lo", e)),
        }
    }

    fn filter(program: BorrowedFd<'_>, lo: i32, handle: u32) -> Result<TcHook, Error> {
        let mut hook = TcHookBuilder::new(program)
            .ifindex(lo)
            .replace(true)
            .handle(handle)
            .priority(PRIORITY)
            .hook(TC_INGRESS);
        hook.create().map_err(Error::bpf("create the clsact qdisc of lo"))?;
        hook.attach().map_err(Error::bpf("attach the filter to lo"))?;
        Ok(hook)
    }
}

impl Drop for LocalHook {
    fn drop(&mut self) {
        if let Kind::Filter(hook) = &mut self.kind {
            // Fails only if somebody else has removed it. The qdisc stays: it may serve others.
            let _gone = hook.detach();
        }
    }
}
