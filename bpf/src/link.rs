//! Links: attachments of programs, pinned in bpffs so that they outlive the daemon.
//!
//! ```text
//! start, no pin           create link -> pin
//! start, pin of this one  open -> BPF_LINK_UPDATE: the new program replaces the old one between two packets
//! crash, restart          the pin keeps program, maps and sockets' map alive; next start as above
//! detach                  unpin, close: the kernel detaches
//! ```
//!
//! Needs CAP_NET_ADMIN and CAP_BPF.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use libbpf_rs::libbpf_sys;

use crate::Error;

/// How the program is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// By the driver, before there is an skb.
    Native,
    /// By the stack, for drivers without XDP: every frame is an skb first.
    Generic,
}

impl AttachMode {
    fn flag(self) -> u32 {
        match self {
            Self::Native => libbpf_sys::XDP_FLAGS_DRV_MODE,
            Self::Generic => libbpf_sys::XDP_FLAGS_SKB_MODE,
        }
    }

    fn attached(self) -> u32 {
        match self {
            Self::Native => libbpf_sys::XDP_ATTACHED_DRV,
            Self::Generic => libbpf_sys::XDP_ATTACHED_SKB,
        }
    }
}

/// What a link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A device, by XDP.
    Xdp(u32),
    /// A device, by TCX: interface index and attach type.
    Tcx(u32, u32),
    /// A cgroup: its id and the attach type.
    Cgroup(u64, u32),
    /// A network namespace: its inode number and the attach type.
    Netns(u32, u32),
    /// A target that is gone.
    Gone,
}

/// An attached, pinned link. Dropping it leaves the pin, and so the attachment.
#[derive(Debug)]
pub(crate) struct PinnedLink {
    pin: PathBuf,
    fd: OwnedFd,
}

impl PinnedLink {
    /// Puts `program` into the link that is pinned at `pin` and attached to `target`, or makes it by `create`.
    pub fn attach(
        program: BorrowedFd<'_>,
        target: Target,
        pin: &Path,
        create: impl FnOnce() -> Result<OwnedFd, Error>,
    ) -> Result<Self, Error> {
        if let Some(fd) = open_pin(pin)? {
            let found = link_target(fd.as_fd(), pin)?;
            if found == target && found != Target::Gone {
                // SAFETY: two valid file descriptors, no options.
                let answer = unsafe {
                    libbpf_sys::bpf_link_update(fd.as_raw_fd(), program.as_raw_fd(), std::ptr::null())
                };
                if answer < 0 {
                    return Err(Error::answer("replace the program of a pinned link", answer));
                }
                return Ok(Self { pin: pin.to_owned(), fd });
            }
            // Of something that is gone (then there is nothing to detach), or attached in another way.
            // SAFETY: a valid file descriptor.
            unsafe { libbpf_sys::bpf_link_detach(fd.as_raw_fd()) };
            remove_pin(pin)?;
        }
        let fd = create()?;
        if let Some(parent) = pin.parent() {
            fs::create_dir_all(parent)
                .map_err(|source| Error::Io { what: "create the pin's directory", source })?;
        }
        // SAFETY: a valid file descriptor and a NUL-terminated path.
        let answer = unsafe { libbpf_sys::bpf_obj_pin(fd.as_raw_fd(), c_path(pin)?.as_ptr()) };
        if answer < 0 {
            return Err(Error::answer("pin a link (is a bpffs mounted there?)", answer));
        }
        Ok(Self { pin: pin.to_owned(), fd })
    }

    /// Detaches at once, even if somebody else holds the link too, and removes the pin.
    pub fn detach(self) -> Result<(), Error> {
        // SAFETY: a valid file descriptor.
        let answer = unsafe { libbpf_sys::bpf_link_detach(self.fd.as_raw_fd()) };
        remove_pin(&self.pin)?;
        match answer {
            0 => Ok(()),
            e => Err(Error::answer("detach a link", e)),
        }
    }
}

/// Attaches the XDP program of a device in this mode, pinned.
pub(crate) fn attach_xdp(
    program: BorrowedFd<'_>,
    ifindex: u32,
    mode: AttachMode,
    pin: &Path,
) -> Result<PinnedLink, Error> {
    // A link in the other mode is not this one: it is made anew.
    let same = query(ifindex).is_ok_and(|(attached, _)| attached == mode.attached());
    let target = if same { Target::Xdp(ifindex) } else { Target::Gone };
    PinnedLink::attach(program, target, pin, || create(program, ifindex, mode))
}

/// Attaches to a cgroup, a network namespace or, with TCX, a device; not pinned. `target`: a file descriptor, or the
/// interface index.
pub(crate) fn create_link(program: BorrowedFd<'_>, target: i32, kind: u32) -> Result<OwnedFd, Error> {
    // SAFETY: valid file descriptors, no options.
    match unsafe { libbpf_sys::bpf_link_create(program.as_raw_fd(), target, kind, std::ptr::null()) } {
        // SAFETY: the kernel just gave it to us.
        fd @ 0.. => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        e => Err(Error::answer("attach a program", e)),
    }
}

/// Attaches without a pin: the attachment ends with the file descriptor.
pub(crate) fn create(program: BorrowedFd<'_>, ifindex: u32, mode: AttachMode) -> Result<OwnedFd, Error> {
    let index = i32::try_from(ifindex).map_err(|_| Error::NoDevice(ifindex))?;
    let mut options = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as u64,
        flags: mode.flag(),
        ..Default::default()
    };
    // SAFETY: a valid file descriptor; the options say their own size and live across the call.
    let fd = unsafe {
        libbpf_sys::bpf_link_create(program.as_raw_fd(), index, libbpf_sys::BPF_XDP, &raw mut options)
    };
    match fd {
        // SAFETY: the kernel just gave it to us.
        0.. => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        e if e == -libc::EBUSY || e == -libc::EEXIST => {
            Err(Error::Busy { ifindex, program: query(ifindex).map_or(0, |(_, id)| id) })
        }
        e => Err(Error::answer("attach the XDP program", e)),
    }
}

/// Mode (XDP_ATTACHED_*) and id of the program that the device runs; zeros if none.
fn query(ifindex: u32) -> Result<(u32, u32), Error> {
    let index = i32::try_from(ifindex).map_err(|_| Error::NoDevice(ifindex))?;
    let mut options = libbpf_sys::bpf_xdp_query_opts {
        sz: size_of::<libbpf_sys::bpf_xdp_query_opts>() as u64,
        ..Default::default()
    };
    // SAFETY: the options say their own size and live across the call.
    match unsafe { libbpf_sys::bpf_xdp_query(index, 0, &raw mut options) } {
        0 => Ok((options.attach_mode.into(), options.prog_id)),
        e => Err(Error::answer("ask which XDP program the device runs", e)),
    }
}

fn open_pin(pin: &Path) -> Result<Option<OwnedFd>, Error> {
    // SAFETY: a NUL-terminated path.
    match unsafe { libbpf_sys::bpf_obj_get(c_path(pin)?.as_ptr()) } {
        // SAFETY: the kernel just gave it to us.
        fd @ 0.. => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        e if e == -libc::ENOENT => Ok(None),
        e => Err(Error::answer("open a pinned link", e)),
    }
}

fn link_target(link: BorrowedFd<'_>, pin: &Path) -> Result<Target, Error> {
    let mut info = libbpf_sys::bpf_link_info::default();
    const LEN: usize = size_of::<libbpf_sys::bpf_link_info>();
    let mut len = u32::try_from(LEN).expect("a struct of some dozen bytes");
    // SAFETY: `info` is as long as `len` says.
    let answer =
        unsafe { libbpf_sys::bpf_link_get_info_by_fd(link.as_raw_fd(), &raw mut info, &raw mut len) };
    if answer < 0 {
        return Err(Error::ForeignPin { path: pin.to_owned() });
    }
    let of = info.__bindgen_anon_1;
    // SAFETY: the type says which of the union's members is there; all are integers.
    let target = unsafe {
        match info.type_ {
            libbpf_sys::BPF_LINK_TYPE_XDP => Target::Xdp(of.xdp.ifindex),
            libbpf_sys::BPF_LINK_TYPE_TCX => Target::Tcx(of.tcx.ifindex, of.tcx.attach_type),
            libbpf_sys::BPF_LINK_TYPE_CGROUP => Target::Cgroup(of.cgroup.cgroup_id, of.cgroup.attach_type),
            libbpf_sys::BPF_LINK_TYPE_NETNS => Target::Netns(of.netns.netns_ino, of.netns.attach_type),
            _ => return Err(Error::ForeignPin { path: pin.to_owned() }),
        }
    };
    Ok(match target {
        Target::Xdp(0) | Target::Tcx(0, _) | Target::Cgroup(0, _) | Target::Netns(0, _) => Target::Gone,
        target => target,
    })
}

fn remove_pin(pin: &Path) -> Result<(), Error> {
    match fs::remove_file(pin) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Io { what: "remove the pin of a link", source })
        }
        _ => Ok(()),
    }
}

fn c_path(path: &Path) -> Result<CString, Error> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|e| Error::Io { what: "use the pin's path", source: io::Error::other(e) })
}
