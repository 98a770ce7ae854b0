//! What workers tell control, and the account of frames at the end.

use crate::{config::QueueMode, route::RouteKey};

/// From a worker to control; fetched by [`crate::Dataplane::poll_events`] after the notify callback was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A next hop is wanted. Sent once for a key while datagrams wait for it (3 s at most), for a cached answer again when
    /// it is 30 s old or was "unreachable" 1 s ago.
    Resolve(RouteKey),
    /// The tenant broke the ring protocol. The worker has stopped serving the endpoint; control detaches it.
    Violation {
        /// The endpoint.
        endpoint: u64,
        /// Which rule.
        reason: &'static str,
    },
    /// A queue's socket failed (the device went away or down); control decides.
    QueueFailed {
        /// The device.
        ifindex: u32,
        /// The queue.
        queue: u32,
        /// What the kernel answered.
        errno: i32,
    },
}

/// Where the UMEM frames of one queue were at the end. `total` is the sum of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueAudit {
    /// Device.
    pub ifindex: u32,
    /// Queue.
    pub queue: u32,
    /// Mode it ran in.
    pub mode: QueueMode,
    /// Frames in the UMEM.
    pub total: u32,
    /// Free, in the worker's hand.
    pub free: u32,
    /// Lent to the kernel for reception.
    pub fill: u32,
    /// Handed to the kernel for transmission and not yet completed.
    pub tx: u32,
    /// Nowhere. Must be 0.
    pub lost: u32,
    /// Frames that the kernel handed out twice or never had. Must be 0.
    pub foreign: u64,
}

/// Account of all frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameAudit {
    /// By queue.
    pub queues: Vec<QueueAudit>,
}

impl FrameAudit {
    /// Frames that are nowhere; 0 unless there is a bug.
    pub fn lost(&self) -> u64 {
        self.queues.iter().map(|q| u64::from(q.lost) + q.foreign).sum()
    }
}
