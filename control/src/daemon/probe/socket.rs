//! The socket that probes and announcements leave by: AF_PACKET, for all devices, sending only (CAP_NET_RAW).

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::sockopt::{set_socket_send_buffer_size_force, socket_cookie};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Bytes that may wait for devices. A frame counts for less than 1 KiB: some thousand addresses at once.
const BUFFER: usize = 4 << 20;

/// It.
#[derive(Debug)]
pub struct Sender(OwnedFd);

impl Sender {
    /// Opens it in the network namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // No protocol: it receives nothing.
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
        set_socket_send_buffer_size_force(&socket, BUFFER)?;
        Ok(Self(socket))
    }

    /// Its SO_COOKIE.
    pub fn cookie(&self) -> io::Result<u64> {
        Ok(socket_cookie(&self.0)?)
    }

    /// Sends a frame as it is out of an interface. EAGAIN, ENOBUFS: later.
    pub fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        // SAFETY: zeroes are a valid sockaddr_ll.
        let mut to: libc::sockaddr_ll = unsafe { mem::zeroed() };
        to.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
        to.sll_ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
        let ethertype = frame.get(12..).and_then(<[u8]>::first_chunk).ok_or(io::ErrorKind::InvalidInput)?;
        to.sll_protocol = u16::from_ne_bytes(*ethertype);
        // SAFETY: frame and address live through the call, the lengths are theirs.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                socklen::<libc::sockaddr_ll>(),
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(mem::size_of::<T>()).unwrap_or(libc::socklen_t::MAX)
}
