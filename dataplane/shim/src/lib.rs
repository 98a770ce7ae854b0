//! `libafnet.so`: puts the UDP sockets of a program that was not written for it on afnet's fast path (`LD_PRELOAD`).
//!
//! ```text
//!   program -- socket calls --> hooks -- followed and FAST? --> rings <--> worker (afnetd)
//!                                 |  no                           ^ claim; the socket is the proof
//!                                 v                               |
//!                              C library, kernel <---- the program's own, real, bound UDP socket
//! ```
//!
//! * An accelerated socket is the kernel's, bound by the kernel, with a pair of rings beside it. Descriptors, names,
//!   ports and options are the kernel's own; only datagrams take the other way. Whatever the shim does not follow goes
//!   to the kernel, and the socket can go back there at any moment, with a reason.
//! * Nothing here runs by itself: no thread, no signal handler. A call that receives looks at the rings first and at
//!   the kernel's queue second; waiting is the kernel's epoll, poll or select, with an eventfd of the rings beside the
//!   socket.
//! * Forked processes share rings and positions (`shared`), under a lock that survives its holder.
//!
//! | module | contents |
//! |---|---|
//! | `hooks` | the functions that stand before the C library's |
//! | `real` | the C library's |
//! | `table` | which descriptor is which socket |
//! | `socket` | a socket in this process; `shared`, `lock`: in all processes that have it |
//! | `attach` | how a socket gets on the fast path and off it |
//! | `receive`, `send` | datagrams; `message`: their control messages; `errors`: ICMP errors |
//! | `known` | which way a destination is, and from which address |
//! | `options` | socket options; `groups`: those that join multicast groups; `names`: the compartment's addresses |
//! | `wait` | arming and sleeping; `watch`: epoll; `ready`: poll and select |
//! | `process` | fork, exec, exit |
//! | `settings`, `log` | what the environment says, and what is said |
//!
//! A second protocol (TCP) would enter where `attach` decides, with a `receive` and `send` of its own behind the same
//! hooks.

#![allow(clippy::missing_safety_doc, reason = "the hooks have the C library's contracts")]

mod address;
mod attach;
mod bundles;
mod errors;
mod groups;
mod hooks;
mod known;
mod lock;
mod log;
mod message;
mod names;
mod options;
mod process;
mod ready;
mod real;
mod receive;
mod send;
mod settings;
mod shared;
mod socket;
mod spin;
mod sys;
mod table;
#[cfg(test)]
mod tests;
mod wait;
mod watch;
