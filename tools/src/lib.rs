//! afnet beside its peers, with one load generator for all (`src/bin/bench.rs`), and that generator as a tool of its
//! own ([`pktgen`]).
//!
//! | module | contents |
//! |---|---|
//! | [`live`] | the generator: live frames into a device's XDP program |
//! | [`pktgen`] | traffic generator and sink |
//! | [`pattern`], [`stamp`] | what its frames look like, and what their payload says |
//! | [`xdp`] | attached programs |
//! | [`sink`] | the receiver: a counting child process |
//! | [`subject`] | what is measured, and how it is set up |
//! | [`afnet`], [`dpdk`] | the two subjects on AF_XDP |
//! | [`density`] | time and memory of a compartment, and what idle tenants cost |
//! | [`echo`], [`latency`], [`overload`] | answers: how many, how soon, and under a flood to somebody else |
//! | [`local`], [`ring`] | between compartments; between processes, by memory alone |
//! | [`groups`] | one stream for many members |
//! | [`rates`] | datagrams delivered |
//! | [`kernel_path`] | servers in and beside compartments, by connections, requests, latency and throughput |
//! | [`batch`] | many datagrams in one system call |
//! | [`cpu`], [`priority`] | what operations cost; before whatever else runs on the machine |
//! | [`figures`] | rounds, medians, ratios |
//! | [`report`], [`bars`] | table and JSON; a drawing |

pub mod afnet;
pub mod bars;
pub mod batch;
pub mod cpu;
pub mod density;
pub mod dpdk;
pub mod echo;
pub mod figures;
pub mod groups;
pub mod kernel_path;
pub mod latency;
pub mod live;
pub mod local;
pub mod overload;
pub mod pattern;
pub mod pktgen;
pub mod priority;
pub mod rates;
pub mod report;
pub mod ring;
pub mod sink;
pub mod stamp;
pub mod subject;
pub mod xdp;
