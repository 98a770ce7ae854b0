//! Raw frames on an interface: an AF_PACKET socket for every protocol.
//!
//! The kernel takes the outermost VLAN tag out of a received frame and hands it over beside the frame;
//! [`Wire`] puts it back, so that a test sees what was on the wire.

use std::{
    ffi::CString,
    io,
    mem::{self, MaybeUninit},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use crate::{netns::Netns, wait};

/// Longest frame in bytes: a jumbo frame with tags, or what GRO would merge.
const FRAME: usize = 70_000;

/// Sender and receiver of raw frames on one interface. What it sends itself it does not receive.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    device: String,
}

impl Wire {
    /// Opens `device` of `ns`; frames that arrive from now on are kept.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[track_caller]
    pub fn open(ns: &Netns, device: &str) -> Self {
        let socket = ns.enter(|| open(device)).unwrap_or_else(|error| panic!("open {device}: {error}"));
        Self { socket, device: device.into() }
    }

    /// SO_COOKIE of its socket.
    pub fn cookie(&self) -> u64 {
        rustix::net::sockopt::socket_cookie(&self.socket).expect("SO_COOKIE")
    }

    /// Sends a frame as it is; waits while the receiver's queue is full.
    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        wait::until_true("room for a frame", || self.offer(frame));
    }

    /// Sends a frame that may be dropped on its way out; whether it was not.
    #[track_caller]
    pub fn offer(&self, frame: &[u8]) -> bool {
        // SAFETY: the pointer and length are those of a live slice.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        let error = io::Error::last_os_error();
        if sent < 0 && error.raw_os_error() == Some(libc::ENOBUFS) {
            return false;
        }
        let whole = usize::try_from(sent) == Ok(frame.len());
        assert!(whole, "send {} bytes to {}: {error}", frame.len(), self.device);
        true
    }

    /// The next frame, if one arrives in time.
    pub fn receive(&self, time: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut poll = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let milliseconds = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            // SAFETY: one pollfd, on the stack.
            if unsafe { libc::poll(&raw mut poll, 1, milliseconds) } == 0 {
                return None;
            }
            if let Some(frame) = self.take() {
                return Some(frame);
            }
        }
    }

    /// Waits for a frame that `matches`, and returns what that yields. Others are dropped.
    #[track_caller]
    pub fn expect<T>(&self, what: &str, matches: impl FnMut(&[u8]) -> Option<T>) -> T {
        match self.find(wait::PATIENCE, matches) {
            Some(found) => found,
            None => panic!("no {what} arrived on {} within {:?}", self.device, wait::PATIENCE),
        }
    }

    /// As [`Self::expect`], but no such frame may come (within `time`).
    #[track_caller]
    pub fn expect_none<T>(&self, time: Duration, what: &str, matches: impl FnMut(&[u8]) -> Option<T>) {
        assert!(self.find(time, matches).is_none(), "{what} arrived on {}", self.device);
    }

    /// The first frame that `matches` in time.
    pub fn find<T>(&self, time: Duration, mut matches: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + time;
        loop {
            let frame = self.receive(deadline.saturating_duration_since(Instant::now()))?;
            if let Some(found) = matches(&frame) {
                return Some(found);
            }
        }
    }

    /// A received frame, unless it was an outgoing one or there is none.
    fn take(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0u8; FRAME];
        let mut control = [0u64; 16];
        let mut iov = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
        // SAFETY: zeroes are valid for both plain C structures.
        let (mut from, mut message) = unsafe {
            (
                MaybeUninit::<libc::sockaddr_ll>::zeroed().assume_init(),
                MaybeUninit::<libc::msghdr>::zeroed().assume_init(),
            )
        };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = socklen::<libc::sockaddr_ll>();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: all buffers named in `message` live until the end of this function.
        let len = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        frame.truncate(usize::try_from(len).ok()?);
        if from.sll_pkttype == libc::PACKET_OUTGOING {
            return None;
        }
        // SAFETY: `message` was filled by the kernel, so its control headers are well-formed; auxiliary data of
        // type PACKET_AUXDATA is a `tpacket_auxdata`.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            if !header.is_null()
                && (*header).cmsg_level == libc::SOL_PACKET
                && (*header).cmsg_type == libc::PACKET_AUXDATA
            {
                let aux: libc::tpacket_auxdata = std::ptr::read_unaligned(libc::CMSG_DATA(header).cast());
                if aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                    let protocol = if aux.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0 {
                        aux.tp_vlan_tpid
                    } else {
                        0x8100
                    };
                    let tag = [protocol.to_be_bytes(), aux.tp_vlan_tci.to_be_bytes()].concat();
                    frame.splice(12..12, tag);
                }
            }
        }
        Some(frame)
    }
}

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("a small structure")
}

fn open(device: &str) -> io::Result<OwnedFd> {
    let check = |result: i32| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) };
    let name = CString::new(device)?;
    // SAFETY: `name` is a C string; `if_nametoindex` keeps nothing.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    let protocol = u16::try_from(libc::ETH_P_ALL).expect("an ethertype").to_be();
    // SAFETY: plain system calls; the new descriptor is owned by `socket` alone.
    let socket = unsafe {
        OwnedFd::from_raw_fd(check(libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            i32::from(protocol),
        ))?)
    };
    // SAFETY: zeroes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).expect("a family");
    address.sll_protocol = protocol;
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let (on, buffer) = (1i32, 16i32 << 20);
    // SAFETY: the structures live through the calls and the lengths are theirs.
    unsafe {
        check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), socklen::<libc::sockaddr_ll>()))?;
        let set = |level, name, value: &i32| {
            check(libc::setsockopt(
                socket.as_raw_fd(),
                level,
                name,
                (&raw const *value).cast(),
                socklen::<i32>(),
            ))
        };
        set(libc::SOL_PACKET, libc::PACKET_AUXDATA, &on)?;
        set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &buffer)?;
    }
    Ok(socket)
}
