//! What a program of a compartment needs to use afnet's fast path: attach, claim ports, send and receive.
//!
//! ```text
//!   Endpoint --- control socket (JSON, fds) ---> afnetd
//!      |  \
//!      |   +---- kernel UDP sockets: proof of a claim, and where its traffic goes while no daemon runs
//!      |
//!      +-- RX ring, TX ring for each worker (one sealed memfd), doorbells (eventfds)
//! ```
//!
//! ```no_run
//! use afnet_tenant::{AttachOptions, Endpoint};
//!
//! // In a process that `afnet exec` has placed in a compartment.
//! let mut endpoint = Endpoint::attach(&AttachOptions::default())?;
//! endpoint.claim(7)?;
//! loop {
//!     endpoint.wait(None)?;
//!     endpoint.recv_batch(64, |sender, datagram| {
//!         // A full ring loses the answer, as a full socket buffer would.
//!         let _ = sender.reply(datagram);
//!     })?;
//! }
//! # Ok::<(), afnet_tenant::Error>(())
//! ```
//!
//! | module | contents |
//! |---|---|
//! | `endpoint` | [`Endpoint`]: attach, claim, reconnect |
//! | `group` | [`Membership`]: multicast and broadcast |
//! | `receive` | its calls that receive, wait and send one at a time |
//! | `sender` | [`Sender`]: batches into the TX rings, or the kernel sockets |
//! | `datagram` | [`Datagram`], what is received; [`IcmpError`] |
//! | `message` | [`Message`], what is sent |
//! | `claim` | claims and the kernel sockets behind them |
//! | `connection` | the control socket |
//! | `session` | what one attachment yields: rings and doorbells |
//! | `instance` | which daemon |
//! | [`parts`] | an endpoint in pieces, for the socket shim |
//! | `capi` | the same for C, `include/afnet.h` (feature `capi`) |
//!
//! An [`Endpoint`] is `Send`, not `Sync`: one thread uses it at a time, without locks. A program with several
//! threads attaches one for each.

#[cfg(feature = "capi")]
mod capi;
mod claim;
mod connection;
mod datagram;
mod endpoint;
mod error;
mod group;
mod instance;
mod message;
pub mod parts;
mod receive;
mod sender;
mod session;

pub use afnet_abi::control::{Address, EndpointKind, Refusal};
pub use afnet_abi::vlan::Vlan;
pub use afnet_ring::Payload;
pub use datagram::{Datagram, IcmpError, Kind};
pub use endpoint::{AttachOptions, Endpoint};
pub use error::Error;
pub use group::Membership;
pub use instance::socket_path;
pub use message::{Message, Realm};
pub use receive::Received;
pub use sender::Sender;
