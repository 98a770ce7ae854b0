//! Programs at the ingress and egress of a device: TCX where the kernel has it (6.6), else a clsact filter.
//!
//! TCX programs of several owners stand side by side. Filters are told apart by priority and handle; the next daemon
//! replaces its own. Needs CAP_NET_ADMIN and CAP_BPF.

use std::{
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use libbpf_rs::libbpf_sys;

use crate::{
    Error,
    link::{PinnedLink, Target, create_link},
};

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    fn tcx(self) -> u32 {
        match self {
            Self::Ingress => libbpf_sys::BPF_TCX_INGRESS,
            Self::Egress => libbpf_sys::BPF_TCX_EGRESS,
        }
    }

    fn clsact(self) -> u32 {
        match self {
            Self::Ingress => libbpf_sys::BPF_TC_INGRESS,
            Self::Egress => libbpf_sys::BPF_TC_EGRESS,
        }
    }
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Interface index.
    pub ifindex: u32,
    pub direction: Direction,
    /// Of a filter: the lower, the earlier.
    pub priority: u32,
    /// Of a filter: unique at its priority.
    pub handle: u32,
}

/// An attachment.
#[derive(Debug)]
pub(crate) enum TcHook {
    /// Ends with the file descriptor.
    Link(#[expect(dead_code, reason = "held for its drop, which detaches")] OwnedFd),
    /// Outlives the daemon.
    Pinned(PinnedLink),
    /// Outlives the daemon, too.
    Filter(Place),
}

impl TcHook {
    /// Attaches `program`, in place of what a daemon before has left there.
    pub fn attach(program: BorrowedFd<'_>, place: Place, pin: Option<&Path>) -> Result<Self, Error> {
        let kind = place.direction.tcx();
        let index = i32::try_from(place.ifindex).map_err(|_| Error::NoDevice(place.ifindex))?;
        let create = || create_link(program, index, kind);
        let link = match pin {
            None => create().map(Self::Link),
            Some(pin) => {
                PinnedLink::attach(program, Target::Tcx(place.ifindex, kind), pin, create).map(Self::Pinned)
            }
        };
        match link {
            // A kernel that does not know the attach type.
            Err(e) if e.errno() == Some(libc::EINVAL) => Self::filter(program, place),
            other => other,
        }
    }

    fn filter(program: BorrowedFd<'_>, place: Place) -> Result<Self, Error> {
        add_clsact(place.ifindex)?;
        let hook = hook(place.ifindex, place.direction.clsact())?;
        let mut options = options(place);
        options.prog_fd = program.as_raw_fd();
        options.flags = libbpf_sys::BPF_TC_F_REPLACE;
        // SAFETY: both structures say their own size and live across the call.
        match unsafe { libbpf_sys::bpf_tc_attach(&raw const hook, &raw mut options) } {
            0 => Ok(Self::Filter(place)),
            e => Err(Error::answer("attach a filter", e)),
        }
    }

    /// Detaches the program.
    pub fn detach(self) -> Result<(), Error> {
        match self {
            Self::Link(_) => Ok(()),
            Self::Pinned(link) => link.detach(),
            Self::Filter(place) => {
                let hook = hook(place.ifindex, place.direction.clsact())?;
                let mut options = options(place);
                options.prog_fd = 0;
                // SAFETY: both structures say their own size and live across the call.
                match unsafe { libbpf_sys::bpf_tc_detach(&raw const hook, &raw const options) } {
                    // Somebody else has removed it, or the device is gone.
                    0 | libc::ENOENT | libc::ENODEV => Ok(()),
                    e if e == -libc::ENOENT || e == -libc::ENODEV || e == -libc::EINVAL => Ok(()),
                    e => Err(Error::answer("detach a filter", e)),
                }
            }
        }
    }
}

/// An attachment without a pin: it goes with this value, and with the daemon. Where the kernel has no TCX a killed daemon's
/// filter stays until the next one replaces it.
#[derive(Debug)]
pub(crate) struct Unpinned(Option<TcHook>);

impl Unpinned {
    pub fn attach(program: BorrowedFd<'_>, place: Place) -> Result<Self, Error> {
        TcHook::attach(program, place, None).map(|hook| Self(Some(hook)))
    }
}

impl Drop for Unpinned {
    fn drop(&mut self) {
        // Fails only if somebody else has removed it.
        let _gone = self.0.take().map(TcHook::detach);
    }
}

/// Makes sure that a device has the clsact qdisc; whether it had none.
pub(crate) fn add_clsact(ifindex: u32) -> Result<bool, Error> {
    let mut hook = hook(ifindex, libbpf_sys::BPF_TC_INGRESS)?;
    // SAFETY: the structure says its own size and lives across the call.
    match unsafe { libbpf_sys::bpf_tc_hook_create(&raw mut hook) } {
        0 => Ok(true),
        e if e == -libc::EEXIST => Ok(false),
        e => Err(Error::answer("create a clsact qdisc", e)),
    }
}

/// Removes it with all filters.
pub(crate) fn remove_clsact(ifindex: u32) -> Result<(), Error> {
    let mut hook = hook(ifindex, libbpf_sys::BPF_TC_INGRESS | libbpf_sys::BPF_TC_EGRESS)?;
    // SAFETY: as above.
    match unsafe { libbpf_sys::bpf_tc_hook_destroy(&raw mut hook) } {
        0 => Ok(()),
        e if e == -libc::ENOENT || e == -libc::ENODEV || e == -libc::EINVAL => Ok(()),
        e => Err(Error::answer("remove a clsact qdisc", e)),
    }
}

/// Whether the kernel has TCX.
pub(crate) fn has_tcx(program: BorrowedFd<'_>) -> bool {
    // No interface has this index: a kernel with TCX says so (ENODEV), one without does not know the attach type.
    create_link(program, i32::MAX, libbpf_sys::BPF_TCX_INGRESS)
        .is_err_and(|e| e.errno() != Some(libc::EINVAL))
}

fn hook(ifindex: u32, attach_point: u32) -> Result<libbpf_sys::bpf_tc_hook, Error> {
    Ok(libbpf_sys::bpf_tc_hook {
        sz: size_of::<libbpf_sys::bpf_tc_hook>() as u64,
        ifindex: i32::try_from(ifindex).map_err(|_| Error::NoDevice(ifindex))?,
        attach_point,
        ..Default::default()
    })
}

fn options(place: Place) -> libbpf_sys::bpf_tc_opts {
    libbpf_sys::bpf_tc_opts {
        sz: size_of::<libbpf_sys::bpf_tc_opts>() as u64,
        handle: place.handle,
        priority: place.priority,
        ..Default::default()
    }
}
