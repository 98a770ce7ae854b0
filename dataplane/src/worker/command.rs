//! Commands to a worker: from the control thread (and the reaper), in order, by a bounded channel and a waker.
//!
//! Objects that take system calls or memory to make are made by the sender and moved over; what a worker gives up it
//! moves back in the [`Reply`], so that it never waits for the kernel to tear something down.

use std::{os::fd::OwnedFd, sync::Arc};

use afnet_ring::{Consumer, Producer};
use crossbeam::channel::Sender;

use super::{
    claims::{Claim, Held},
    core::Waiting,
    endpoint::{RxHalf, TxHalf},
    queue::Queue,
};
use crate::{
    config::{Compartment, EndpointKind},
    counters::Counters,
    event::QueueAudit,
    groups::{Group, Local, Sources},
    reaper::Line,
    route::{Route, RouteKey},
    xsk::RxSocket,
};

/// A command and where the answer goes, if one is wanted.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) command: Command,
    pub(crate) reply: Option<Sender<Reply>>,
}

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Serve a queue of a device or of the host link.
    AddQueue(Box<Queue>),
    /// How to reach all workers, by their numbers.
    Peers(Vec<Line>),
    /// The worker has no queue of the device, that one has: what is to leave there is handed over.
    Elsewhere { ifindex: u32, worker: usize },
    /// Something to send, from another worker.
    Handover { waiting: Waiting, route: Route },
    /// Give up all queues of an interface. Reply: `Queues`.
    RemoveQueues { ifindex: u32 },
    /// A device's MAC address or MTU has changed.
    Changed { ifindex: u32, mac: [u8; 6], mtu: u32 },
    /// What a slot is, replacing what was said before.
    Compartment { slot: u32, compartment: Arc<Compartment> },
    /// Forget a slot's addresses and tables; its endpoints are gone already.
    RemoveSlot { slot: u32 },
    /// A compartment's socket on a queue.
    AddSocket { ifindex: u32, queue: u32, slot: u32, socket: RxSocket },
    /// The slot's socket is out of the XSKMAP: serve what is left in it, then hand it over with `TakeSocket`.
    RetireSocket { ifindex: u32, queue: u32, slot: u32 },
    /// Empty and hand over a retired socket. Reply: `Socket`.
    TakeSocket { ifindex: u32, queue: u32, serial: u64 },
    /// Serve an endpoint.
    AddEndpoint(Box<NewEndpoint>),
    /// Stop serving it. Reply: `Endpoint`.
    RemoveEndpoint { id: u64 },
    /// Deliver a port range to an endpoint.
    Claim { id: u64, held: Held },
    /// No longer.
    Unclaim { id: u64, claim: Claim },
    /// What an endpoint hears in a group, and by whom what this host sends there.
    Listen { id: u64, group: Group, wanted: Arc<Sources>, local: Local },
    /// Whether the kernel gets what is sent to a group, too.
    GroupKernel { group: Group, kernel: bool },
    /// An answer to `Event::Resolve`, or news about a route.
    Route { key: RouteKey, route: Route },
    /// All cached routes are stale.
    FlushRoutes,
    /// Give up everything and end. Reply: `Stopped`.
    Stop,
}

/// A worker's share of a new endpoint.
#[derive(Debug)]
pub(crate) struct NewEndpoint {
    pub(crate) id: u64,
    pub(crate) slot: u32,
    pub(crate) kind: EndpointKind,
    pub(crate) rx: Producer,
    pub(crate) tx: Consumer,
    /// Rung to wake the tenant.
    pub(crate) wake: Arc<OwnedFd>,
    /// Rung by the tenant.
    pub(crate) doorbell: OwnedFd,
    pub(crate) counters: Arc<Counters>,
    pub(crate) slot_counters: Arc<Counters>,
}

/// The halves of an endpoint that a worker no longer serves.
pub(crate) type Halves = (Option<Box<TxHalf>>, Option<Box<RxHalf>>);

/// What a worker answers.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Done.
    Done,
    /// Its registration with the poller failed, or nothing with that number.
    Failed(std::io::Error),
    /// To `RemoveQueues`.
    Queues(Vec<Queue>),
    /// To `TakeSocket`.
    Socket(RxSocket),
    /// To `RemoveEndpoint`: to be dropped by the receiver, which unmaps the memory if it is the last.
    Endpoint(#[expect(dead_code, reason = "is only dropped")] Halves),
    /// To `Stop`: queues to be dropped by the receiver.
    Stopped(Vec<Queue>, Vec<QueueAudit>),
}
