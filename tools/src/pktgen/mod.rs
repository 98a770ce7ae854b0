//! pktgen: a traffic generator and sink for whoever must prove line rate; `src/bin/pktgen.rs` is the program.
//!
//! ```text
//!  Flow, Capture --> Pattern (prebuilt frames) --> Sender (pace) --> Worker --> AF_XDP or live frames
//!                                                                    Worker <-- AF_XDP <-- XDP program (stamped?)
//!  main thread: Trial (starts and stops workers) <-- Counters, Receiver's accounts --> Screen, report, plot
//! ```
//!
//! | module | contents | thread |
//! |---|---|---|
//! | [`cli`], [`args`], [`commands`] | the command line and what each command does | main |
//! | [`flow`], [`headers`], [`span`], [`sizes`], [`capture`] | what frames are | main |
//! | [`rig`], [`trial`] | devices opened once, trials run on them | main |
//! | [`device`], [`port`] | interfaces, namespaces; AF_XDP sockets and their mode | main |
//! | [`worker`], [`send`], [`receive`], [`pace`], [`swap`], [`echo`] | the loops | workers |
//! | [`track`], [`latency`] | accounts of a stream | the worker that receives it |
//! | [`counters`] | what the display reads | workers write |
//! | [`rfc2544`] | the search for throughput, as a pure function | main |
//! | [`screen`], [`report`], [`plot`] | what is shown | main |
//! | [`error`] | what goes wrong | |
//!
//! Needs root (CAP_NET_RAW, CAP_NET_ADMIN, CAP_BPF; CAP_SYS_ADMIN for live frames and namespaces).

pub mod args;
pub mod capture;
pub mod cli;
pub mod commands;
pub mod counters;
pub mod device;
pub mod echo;
pub mod error;
pub mod flow;
pub mod headers;
pub mod latency;
pub mod pace;
pub mod plot;
pub mod port;
pub mod receive;
pub mod report;
pub mod rfc2544;
pub mod rig;
pub mod screen;
pub mod send;
pub mod sizes;
pub mod span;
pub mod swap;
pub mod track;
pub mod trial;
pub mod worker;
