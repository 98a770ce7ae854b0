//! Who is at the other end of a connection, by what the kernel says of it.
//!
//! | question | answer from |
//! |---|---|
//! | may it administer? | `SO_PEERCRED` uid 0, or the configured group in gid or `SO_PEERGROUPS` |
//! | which compartment is it in? | `SO_PEERPIDFD` keeps the pid from being reused while `/proc/PID/cgroup` is read |
//!
//! All of it is as of `connect()`, except the cgroup, which is read when asked for.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::{io, ptr};

/// From linux/socket.h of 6.5; libc has it for some targets only.
const SO_PEERPIDFD: libc::c_int = 77;

/// Credentials of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process id as this daemon sees it; 0 if it cannot see the process (another pid namespace).
    pub pid: u32,
    /// Effective user id at connect.
    pub uid: u32,
    /// Whether it may give administrative orders.
    pub admin: bool,
}

impl Peer {
    /// Asks the kernel about the peer of a connected Unix socket. `group`: administrators beside root.
    pub fn of(socket: BorrowedFd<'_>, group: Option<u32>) -> io::Result<Self> {
        let mut cred = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
        // SAFETY: ucred is plain old data of the length that is passed.
        unsafe {
            getsockopt(socket, libc::SO_PEERCRED, ptr::from_mut(&mut cred).cast(), size_of_val(&cred))?
        };
        let admin = cred.uid == 0
            || match group {
                None => false,
                Some(group) => cred.gid == group || peer_groups(socket)?.contains(&group),
            };
        Ok(Self { pid: u32::try_from(cred.pid).unwrap_or(0), uid: cred.uid, admin })
    }
}

/// Path of the peer's cgroup v2, as `/proc/PID/cgroup` shows it, if the process that connected still lives.
pub fn peer_cgroup(socket: BorrowedFd<'_>, pid: u32) -> io::Result<String> {
    let gone = || io::Error::new(io::ErrorKind::NotFound, "the process that connected is gone");
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).ok_or_else(gone)?;
    let pidfd = match peer_pidfd(socket) {
        Ok(fd) => fd,
        // Before 6.5 the pid may have been reused between connect and now; nothing better can be had there.
        Err(e) if e.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?
        }
        Err(e) => return Err(e),
    };
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    // A pidfd becomes readable when its process ends: if it has not, what was read was that process's file.
    let mut poll = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    if rustix::event::poll(&mut poll, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 }))? != 0 {
        return Err(gone());
    }
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    path.map(str::to_owned).ok_or_else(|| io::Error::other("the process is in no cgroup v2"))
}

fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut fd: libc::c_int = -1;
    // SAFETY: an int of the length that is passed.
    unsafe { getsockopt(socket, SO_PEERPIDFD, ptr::from_mut(&mut fd).cast(), size_of_val(&fd))? };
    // SAFETY: on success the kernel has installed a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<libc::gid_t>> {
    let mut groups = vec![0; 64];
    loop {
        let len = groups.len() * size_of::<libc::gid_t>();
        // SAFETY: the vector has `len` initialised bytes; any bits are a gid_t.
        match unsafe { getsockopt(socket, libc::SO_PEERGROUPS, groups.as_mut_ptr().cast(), len) } {
            Ok(len) => {
                groups.truncate(len / size_of::<libc::gid_t>());
                return Ok(groups);
            }
            // NGROUPS_MAX is 65536.
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) && groups.len() < 1 << 17 => {
                groups.resize(groups.len() * 2, 0);
            }
            Err(e) => return Err(e),
        }
    }
}

/// Reads an option of level SOL_SOCKET and returns its length.
///
/// # Safety
/// `value` points to `len` writable bytes, for which any bits that the kernel writes are valid.
unsafe fn getsockopt(
    socket: BorrowedFd<'_>,
    option: libc::c_int,
    value: *mut libc::c_void,
    len: usize,
) -> io::Result<usize> {
    let mut len = libc::socklen_t::try_from(len).map_err(io::Error::other)?;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the caller's promise; the descriptor is open while it is borrowed.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, value, &raw mut len) };
    if result == 0 { Ok(len as usize) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_kernel_knows_its_peer() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = Peer::of(a.as_fd(), None).unwrap();
        assert_eq!(peer.pid, std::process::id());
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!((peer.uid, peer.admin), (uid, uid == 0));
        let own = Peer::of(a.as_fd(), Some(rustix::process::getegid().as_raw())).unwrap();
        assert!(own.admin, "the group alone suffices");
        peer_groups(a.as_fd()).unwrap();
        let cgroup = peer_cgroup(a.as_fd(), peer.pid).unwrap();
        assert!(cgroup.starts_with('/'), "{cgroup}");
    }
}
