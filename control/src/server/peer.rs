//! Who is at the other end of a connection, by what the kernel says of it.
//!
//! | question | answer from |
//! |---|---|
//! | may it administer? | `SO_PEERCRED` uid 0, or the configured group in gid or `SO_PEERGROUPS`; never from within a compartment |
//! | which process is it? | `SO_PEERPIDFD`, which tells it from a later one with the same number |
//! | which compartment is it in? | its `/proc/PID/cgroup` |
//!
//! Credentials are as of `connect()`; the cgroup is read when asked for, since a process may be moved.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::{io, ptr};

use crate::system::cgroup::compartment_of;
use crate::system::process::Process;

/// From linux/socket.h of 6.5; libc has it for some targets only.
const SO_PEERPIDFD: libc::c_int = 77;

/// Credentials of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process id as this daemon sees it; 0 if it cannot see the process (another pid namespace).
    pub pid: u32,
    /// Effective user id at connect.
    pub uid: u32,
    /// Whether it may give administrative orders, by its credentials and its cgroup at connect.
    pub admin: bool,
}

impl Peer {
    /// Asks the kernel about the peer of a connected Unix socket. `group`: administrators beside root.
    pub fn of(socket: BorrowedFd<'_>, group: Option<u32>) -> io::Result<Self> {
        let cred = credentials(socket)?;
        let trusted = cred.uid == 0
            || match group {
                None => false,
                Some(group) => groups(socket)?.contains(&group),
            };
        let pid = u32::try_from(cred.pid).unwrap_or(0);
        Ok(Self { pid, uid: cred.uid, admin: trusted && free(socket, pid) })
    }
}

/// Whether the peer lives, and in no compartment. A process that cannot be seen has no privilege.
pub fn free(socket: BorrowedFd<'_>, pid: u32) -> bool {
    let cgroup = peer_process(socket, pid).and_then(|process| process.cgroup());
    cgroup.is_ok_and(|path| compartment_of(&path).is_none())
}

/// The process that connected, if it still lives.
pub fn peer_process(socket: BorrowedFd<'_>, pid: u32) -> io::Result<Process> {
    match peer_pidfd(socket) {
        Ok(pidfd) => Process::from_pidfd(pid, pidfd),
        // Before 6.5 the pid may have been reused between connect and now; nothing better can be had there.
        Err(e) if e.raw_os_error() == Some(libc::ENOPROTOOPT) => Process::open(pid),
        Err(e) => Err(e),
    }
}

/// The peer's groups, the effective one included.
pub fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut all = peer_groups(socket)?;
    all.push(credentials(socket)?.gid);
    Ok(all)
}

fn credentials(socket: BorrowedFd<'_>) -> io::Result<libc::ucred> {
    let mut cred = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    // SAFETY: ucred is plain old data of the length that is passed.
    unsafe { getsockopt(socket, libc::SO_PEERCRED, ptr::from_mut(&mut cred).cast(), size_of_val(&cred))? };
    Ok(cred)
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
        assert!(groups(a.as_fd()).unwrap().contains(&rustix::process::getegid().as_raw()));
        let process = peer_process(a.as_fd(), peer.pid).unwrap();
        assert!(process.cgroup().unwrap().starts_with('/'));
        assert!(!free(a.as_fd(), 0), "a process that cannot be seen");
    }
}
