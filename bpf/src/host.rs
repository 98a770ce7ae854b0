//! [`HostDemux`]: the program at the worker's end of the host link, which hands every frame to a worker.

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use libbpf_rs::skel::{OpenSkel, SkelBuilder};

use crate::{
    AttachMode, Error, Sockets,
    link::create,
    map::{Index, Map},
    skel::host::HostSkelBuilder,
};

/// Verdicts that `prog/host.bpf.c` gives, as indices of its counters (enum xdp_action).
const XDP_DROP: Index = 1;
const XDP_REDIRECT: Index = 4;

/// The program of one host link. Not pinned: it ends with this value, or with the veth pair.
#[derive(Debug)]
pub struct HostDemux {
    program: OwnedFd,
    queues: u32,
    sockets: Map<Index, u32>,
    verdicts: Map<Index, u64>,
    link: Option<OwnedFd>,
}

/// What the host link's program has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCounters {
    /// Frames handed to a worker.
    pub redirected: u64,
    /// Frames dropped for want of a socket on their queue.
    pub no_socket: u64,
}

impl HostDemux {
    /// Loads the program for a link with `queues` receive queues at the worker's end.
    pub fn load(queues: u32) -> Result<Self, Error> {
        let mut storage = MaybeUninit::uninit();
        let mut open = HostSkelBuilder::default()
            .open(&mut storage)
            .map_err(Error::bpf("open the host link's object"))?;
        open.maps.xsks.set_max_entries(queues.max(1)).map_err(Error::bpf("size a map"))?;
        let skel = open.load().map_err(Error::bpf("load the host link's object"))?;
        let program = skel.progs.afnet_host.as_fd().try_clone_to_owned();
        Ok(Self {
            program: program.map_err(|source| Error::Io { what: "duplicate a file descriptor", source })?,
            queues: queues.max(1),
            sockets: Map::new("socket", &skel.maps.xsks)?,
            verdicts: Map::new("verdict", &skel.maps.verdicts)?,
            link: None,
        })
    }

    /// Attaches the program to the worker's end.
    pub fn attach(&mut self, ifindex: u32, mode: AttachMode) -> Result<(), Error> {
        self.link = Some(create(self.program.as_fd(), ifindex, mode)?);
        Ok(())
    }

    /// Detaches the program.
    pub fn detach(&mut self) {
        self.link = None;
    }

    /// A handle to the socket map; its only slot is 0.
    pub fn sockets(&self) -> Result<Sockets, Error> {
        Ok(Sockets::new(self.sockets.try_clone()?, self.queues, 1))
    }

    /// What was counted since the program was loaded, summed over CPUs.
    pub fn counters(&self) -> Result<HostCounters, Error> {
        let sum = |verdict| Ok(self.verdicts.get_percpu(&verdict)?.iter().sum());
        Ok(HostCounters { redirected: sum(XDP_REDIRECT)?, no_socket: sum(XDP_DROP)? })
    }

    /// The program, for test runs.
    pub fn program_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}
