//! To another worker: what must leave by a device of which this worker has no queue (more workers than queues).
//!
//! The record has been checked and its route is known; a private copy goes through the other worker's command channel,
//! which sends it as its own. That worker is called once a round, not for each packet. A full channel puts the record
//! off, as a full TX ring does.

use afnet_abi::shm::Record;

use super::{
    command::{Command, Request},
    copy::Bytes,
    tx::{Out, Outcome, Sender},
};
use crate::{counters::Counter, reaper::Line, route::Route};

/// The other workers.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// By number.
    pub(super) lines: Vec<Line>,
    /// Devices of which this worker has no queue, and a worker that has one.
    pub(super) elsewhere: Vec<(u32, usize)>,
    /// Bit n: worker n was handed something in this round.
    handed: u64,
}

impl Peers {
    /// Calls the workers that were handed something.
    pub(super) fn flush(&mut self) {
        while self.handed != 0 {
            let worker = self.handed.trailing_zeros();
            self.handed &= self.handed - 1;
            if let Some(line) = self.lines.get(worker as usize) {
                // It fails if that worker is gone; then so is what it was handed.
                let _ = line.waker.wake();
            }
        }
    }
}

impl Out<'_> {
    /// The worker that has a queue of the device, if this one has none.
    #[inline]
    pub(super) fn elsewhere(&self, ifindex: u32) -> Option<usize> {
        self.peers.elsewhere.iter().find(|(device, _)| *device == ifindex).map(|(_, worker)| *worker)
    }

    /// Hands a record over to the worker that has the device.
    pub(super) fn hand_over(
        &mut self,
        sender: &Sender<'_>,
        record: &Record,
        bytes: Bytes<'_>,
        route: Route,
    ) -> Outcome {
        let Route::Wire { ifindex, .. } = route else { return self.refuse(sender, Counter::TxNoQueue) };
        let Some(worker) = self.elsewhere(ifindex) else { return self.refuse(sender, Counter::TxNoQueue) };
        let waiting = self.keep(sender, record, bytes);
        let Some(line) = self.peers.lines.get(worker) else { return self.refuse(sender, Counter::TxNoQueue) };
        let command = Command::Handover { waiting, route };
        match line.requests.try_send(Request { command, reply: None }) {
            Ok(()) => {
                self.peers.handed |= 1 << worker;
                Outcome::Done
            }
            Err(refused) => {
                if let Command::Handover { waiting, .. } = refused.into_inner().command {
                    self.core.spare.push(waiting.payload);
                }
                Outcome::Later
            }
        }
    }
}
