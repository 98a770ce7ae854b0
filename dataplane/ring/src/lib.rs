//! Single-producer single-consumer byte rings over memory that a hostile peer can write.
//!
//! ```text
//!        Producer (one process)                     Consumer (the other process)
//!   reserve -> copy payload -> commit               peek -> use the private copy -> consume
//!        |  private position `head`                      |  private position `tail`
//!        v                                               v
//!   publish: one release store a batch   ........   release: one release store a batch
//!        |                                               |
//!        +--> peer sleeps, not rung yet? ring            +--> peer waits for room? ring
//! ```
//!
//! | module | contents |
//! |---|---|
//! | `mapping` | the sealed memfd of an endpoint: create, open, hand out ring ends |
//! | `plain` | a ring in this process's memory, for tests |
//! | `producer` | reserve, commit, publish |
//! | `consumer` | peek, consume, release |
//! | `control` | positions, sleep words, the decision to ring a doorbell |
//! | `memory` | the bytes: a mapping or plain memory; the only place that touches them |
//! | `model` | properties of the above, for unit tests and `cfg(fuzzing)` |
//! | `violation` | what a peer can do wrong |
//! | `sync` | atomics; loom's under `cfg(loom)` |
//!
//! The layout is `afnet_abi::shm`'s. Who may do what:
//!
//! * Every shared word has one writer. Each end keeps its own positions in private memory and only announces
//!   them; what it reads of the peer is read once, checked against private numbers, and only the copy is used.
//! * A peer that breaks the rules can corrupt what it sends and receives itself. It cannot make this end read
//!   or write outside of the ring's data area, nor loop for longer than the ring is: the end reports a
//!   [`Violation`] instead, once and for all.
//! * No Rust reference to shared memory is ever formed, except to the atomics of the control words.
//! * An end is `Send`, not `Sync`: one thread owns it at a time. Nothing here blocks or makes a system call,
//!   except [`Mapping`]'s constructors.

mod consumer;
mod control;
#[cfg(not(loom))]
mod mapping;
mod memory;
#[cfg(all(any(test, fuzzing, feature = "model"), not(loom)))]
pub mod model;
mod plain;
mod producer;
mod sync;
mod violation;

pub use consumer::{Consumer, Item, Payload};
#[cfg(not(loom))]
pub use mapping::{Layout, Mapping, OpenError};
pub use memory::prefetch;
pub use plain::pair;
pub use producer::{Producer, Reserved};
pub use violation::Violation;

/// The full fence between [`Producer::announce`] and [`Producer::must_ring`].
#[inline]
pub fn fence() {
    sync::fence(sync::Ordering::SeqCst);
}
