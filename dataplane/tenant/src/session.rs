//! What one attachment yields: a connection, rings, doorbells. A reconnected endpoint gets a new one.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use afnet_abi::{
    control::{Address, Answer, EndpointKind, Request},
    shm::endpoint_kind,
};
use afnet_ring::{Consumer, Layout, Mapping};
use rustix::fs::{OFlags, fcntl_setfl};

use crate::{
    AttachOptions, Error,
    connection::{Connection, unexpected},
    sender::Tx,
};

/// One worker's RX ring.
#[derive(Debug)]
pub struct Rx {
    /// The tenant's end.
    pub consumer: Consumer,
    /// Records consumed whose room has not been given back.
    pub(crate) unreleased: u32,
}

/// An attachment, fresh from the daemon.
#[derive(Debug)]
pub struct Session {
    /// Where it lives; closed, it ends.
    pub connection: Connection,
    /// Number of the endpoint.
    pub id: u64,
    /// Name of the compartment.
    pub name: String,
    /// Addresses of the compartment as they were then.
    pub addresses: Vec<Address>,
    /// Some device copies what is sent.
    pub copied: bool,
    /// Eventfd that the workers ring. Non-blocking.
    pub wake: OwnedFd,
    /// RX ring of each worker.
    pub rx: Vec<Rx>,
    /// TX ring of each worker.
    pub tx: Vec<Tx>,
}

impl Session {
    /// Connects to the control socket at `path` and attaches.
    ///
    /// # Errors
    /// As [`crate::Endpoint::attach`].
    pub fn open(path: &Path, options: &AttachOptions) -> Result<Self, Error> {
        Self::attach(Connection::open(path)?, options)
    }

    /// Attaches over a connection that is open.
    ///
    /// # Errors
    /// [`Error::Refused`] (no such compartment, not in one, not allowed), [`Error::Protocol`], or what the kernel says.
    pub fn attach(mut connection: Connection, options: &AttachOptions) -> Result<Self, Error> {
        let AttachOptions { kind, rx_len, tx_len, .. } = *options;
        let request = Request::Attach { kind, name: options.compartment.clone(), rx_len, tx_len };
        let (answer, fds) = connection.call(&request, &[])?;
        let Answer::Attached { endpoint: id, name, workers, rx_len, tx_len, addresses, copied } = answer
        else {
            return Err(unexpected(&answer));
        };
        let word = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let expected = Layout {
            kind: match kind {
                EndpointKind::Udp => endpoint_kind::UDP,
                EndpointKind::Raw => endpoint_kind::RAW,
            },
            workers: word(workers.into()),
            rx_len: word(rx_len),
            tx_len: word(tx_len),
        };
        let count = fds.len();
        if count != expected.workers.saturating_add(2) {
            return Err(Error::Protocol(format!("{count} file descriptors for {workers} workers")));
        }
        let mut fds = fds.into_iter();
        let (Some(memory), Some(wake)) = (fds.next(), fds.next()) else {
            return Err(Error::Protocol("no file descriptors".to_owned()));
        };
        let mapping = Mapping::open(memory.as_fd())?;
        if mapping.layout() != expected {
            return Err(Error::Protocol("memory and answer do not agree".to_owned()));
        }
        if options.populate {
            mapping.populate()?;
        }
        // Draining the one and ringing the others must never block, whatever the daemon thought of.
        fcntl_setfl(&wake, OFlags::NONBLOCK)?;
        let (mut rx, mut tx) = (Vec::with_capacity(expected.workers), Vec::with_capacity(expected.workers));
        for (worker, doorbell) in fds.enumerate() {
            fcntl_setfl(&doorbell, OFlags::NONBLOCK)?;
            let ends = mapping.tenant_side(worker);
            let (consumer, producer) =
                ends.ok_or_else(|| Error::Protocol("more doorbells than workers".to_owned()))?;
            rx.push(Rx { consumer, unreleased: 0 });
            tx.push(Tx { producer, doorbell, pending: 0 });
        }
        Ok(Self { connection, id, name, addresses, copied, wake, rx, tx })
    }
}
