//! afnet beside its peers, with one load generator for all; `src/bin/bench.rs` is the program.
//!
//! | module | contents |
//! |---|---|
//! | [`live`] | the generator: live frames into a device's XDP program |
//! | [`sink`] | the receiver: a counting child process |
//! | [`subject`] | what is measured, and how it is set up |
//! | [`afnet`], [`dpdk`] | the two subjects on AF_XDP |
//! | [`cost`] | time and memory of adding a compartment |
//! | [`kernel_path`] | servers in and beside compartments, by connections, requests, latency and throughput |
//! | [`batch`] | many datagrams in one system call |
//! | [`report`] | medians, ratios, table and JSON |

pub mod afnet;
pub mod batch;
pub mod cost;
pub mod dpdk;
pub mod kernel_path;
pub mod live;
pub mod report;
pub mod sink;
pub mod subject;
