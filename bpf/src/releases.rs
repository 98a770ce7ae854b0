//! Sockets behind claims: what the kernel path's programs know of one ([`Registered`]), and the report that it has given
//! its port up ([`Releases`]).
//!
//! A claim stands on a bound socket that only its program holds. When the program closes it the claim must go, or it
//! would take what is meant for the port's next owner; the hook that sees the last close (`cgroup/sock_release`, in
//! `prog/bind.h`) says so by ring buffer. A daemon that has taken over gets no reports about claims of the one before:
//! those are gone with it.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::{
        atomic::{Ordering, fence},
        mpsc,
    },
};

use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};

use crate::{
    Error,
    skel::{Plain, c, confine_types::afnet_socket},
};

/// A UDP socket of a compartment, as the register of ports has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The compartment; `None` if it was removed.
    pub slot: Option<u32>,
    /// The port that it is registered for; 0: none, it was only connected.
    pub port: u16,
    /// It is on all IPv4 addresses of the compartment, and on loopback.
    pub all4: bool,
    /// It is on all IPv6 addresses.
    pub all6: bool,
}

impl Registered {
    pub(crate) fn new(socket: &afnet_socket, home: bool) -> Self {
        let on = |bit| socket.port != 0 && socket.flags & bit != 0;
        Self {
            slot: home.then_some(socket.slot),
            port: socket.port,
            all4: on(c::SOCKET_ANY4),
            all6: on(c::SOCKET_ANY6),
        }
    }
}

/// The reading end of the ring of reports.
#[derive(Debug)]
pub struct Releases {
    map: MapHandle,
    ring: RingBuffer<'static>,
    cookies: mpsc::Receiver<u64>,
}

impl Releases {
    pub(crate) fn new(map: &libbpf_rs::MapMut<'_>) -> Result<Self, Error> {
        let map = MapHandle::try_from(&**map).map_err(Error::bpf("duplicate a map's file descriptor"))?;
        let (sender, cookies) = mpsc::channel();
        let mut builder = RingBufferBuilder::new();
        builder
            .add(&map, move |record| {
                // The receiver lives as long as the ring.
                u64::from_bytes(record).map_or(0, |cookie| sender.send(cookie).map_or(-1, |()| 0))
            })
            .map_err(Error::bpf("open the ring of releases"))?;
        let ring = builder.build().map_err(Error::bpf("open the ring of releases"))?;
        Ok(Self { map, ring, cookies })
    }

    /// Hands the cookie of every socket that was released to `each`. Never waits.
    pub fn drain(&mut self, mut each: impl FnMut(u64)) -> Result<(), Error> {
        loop {
            match self.ring.consume_raw() {
                0 => break,
                // See Ring::drain() in events.rs.
                1.. => fence(Ordering::SeqCst),
                error => return Err(Error::answer("read the ring of releases", error)),
            }
        }
        self.cookies.try_iter().for_each(&mut each);
        Ok(())
    }
}

impl AsFd for Releases {
    /// Readable (poll, epoll) when there are reports.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}
