//! `udp-echo`: an ordinary UDP socket of the kernel that sends every datagram back, in batches. The yardstick for
//! whatever echoes faster, and the far end of a round trip.
//!
//! The control message with the local address (IP_PKTINFO) goes back as it came, so a socket on the wildcard address
//! answers from the address that was asked.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    ptr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use super::{
    counters::Counters,
    error::{Error, Result},
};

/// Datagrams of one system call.
const BATCH: usize = 64;
/// Longest datagram in a jumbo frame.
const LONGEST: usize = 9216;
/// Receive buffer of the socket: what arrives while the thread is off its CPU.
static BUFFER: i32 = 8 << 20;
static ON: i32 = 1;
/// How late a stop may be noticed.
const PATIENCE: Duration = Duration::from_millis(50);

/// Echoes until told to stop.
///
/// # Errors
/// If the port is taken, or the kernel refuses to send.
pub fn run(listen: SocketAddr, stop: &AtomicBool, counters: &Counters) -> Result<()> {
    let socket = UdpSocket::bind(listen).map_err(Error::io(format!("bind {listen}")))?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(Error::io("set a timeout"))?;
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &BUFFER)
        .or_else(|_| set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &BUFFER))
        .map_err(Error::io("set the receive buffer"))?;
    let (level, option) = if listen.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    };
    set(&socket, level, option, &ON).map_err(Error::io("ask for destination addresses"))?;
    Batch::new().echo(&socket, stop, counters).map_err(Error::io(format!("echo on {listen}")))
}

/// Memory of one recvmmsg or sendmmsg.
struct Batch {
    messages: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
    buffers: Vec<[u8; LONGEST]>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<[u64; 8]>,
}

impl Batch {
    fn new() -> Self {
        // SAFETY: zeroes are valid for all three plain C structures.
        let (message, vector, name) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed::<libc::iovec>(), std::mem::zeroed()) };
        let mut batch = Self {
            messages: vec![message; BATCH],
            vectors: vec![vector; BATCH],
            buffers: vec![[0; LONGEST]; BATCH],
            names: vec![name; BATCH],
            controls: vec![[0; 8]; BATCH],
        };
        // The vectors never grow, so the pointers stay.
        for i in 0..BATCH {
            batch.vectors[i].iov_base = batch.buffers[i].as_mut_ptr().cast();
            let header = &mut batch.messages[i].msg_hdr;
            header.msg_iov = &raw mut batch.vectors[i];
            header.msg_iovlen = 1;
            header.msg_name = ptr::from_mut(&mut batch.names[i]).cast();
            header.msg_control = batch.controls[i].as_mut_ptr().cast();
        }
        batch
    }

    fn echo(&mut self, socket: &UdpSocket, stop: &AtomicBool, counters: &Counters) -> io::Result<()> {
        let (mut frames, mut bytes) = ((0u64, 0u64), (0u64, 0u64));
        let name =
            libc::socklen_t::try_from(size_of::<libc::sockaddr_storage>()).map_err(io::Error::other)?;
        while !stop.load(Relaxed) {
            for i in 0..BATCH {
                self.vectors[i].iov_len = LONGEST;
                let header = &mut self.messages[i].msg_hdr;
                header.msg_namelen = name;
                header.msg_controllen = size_of::<[u64; 8]>();
            }
            // SAFETY: each message names live memory of this object, with its true lengths.
            let got = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    self.messages.as_mut_ptr(),
                    u32::try_from(BATCH).map_err(io::Error::other)?,
                    libc::MSG_WAITFORONE,
                    ptr::null_mut(),
                )
            };
            let Ok(got) = usize::try_from(got) else {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => continue,
                    // The answer to one that has closed its socket.
                    io::ErrorKind::ConnectionRefused => continue,
                    _ => return Err(error),
                }
            };
            for i in 0..got {
                let length = self.messages[i].msg_len;
                self.vectors[i].iov_len = length as usize;
                bytes.0 += u64::from(length);
            }
            frames.0 += got as u64;
            let mut at = 0;
            while at < got {
                let rest = u32::try_from(got - at).map_err(io::Error::other)?;
                // SAFETY: as above; only messages that were received.
                let sent =
                    unsafe { libc::sendmmsg(socket.as_raw_fd(), self.messages[at..].as_mut_ptr(), rest, 0) };
                match usize::try_from(sent) {
                    Ok(sent) if sent > 0 => {
                        bytes.1 +=
                            self.messages[at..at + sent].iter().map(|m| u64::from(m.msg_len)).sum::<u64>();
                        frames.1 += sent as u64;
                        at += sent;
                    }
                    // One that cannot be sent (no route back, no room) is left out.
                    _ => at += 1,
                }
            }
            counters.received.store(frames.0, Relaxed);
            counters.received_bytes.store(bytes.0, Relaxed);
            counters.sent.store(frames.1, Relaxed);
            counters.sent_bytes.store(bytes.1, Relaxed);
        }
        Ok(())
    }
}

fn set(socket: &UdpSocket, level: i32, option: i32, value: &i32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<i32>()).map_err(io::Error::other)?;
    // SAFETY: the value lives through the call.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, ptr::from_ref(value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
