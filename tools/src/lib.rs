//! afnet beside its peers, with one load generator for all; `src/bin/bench.rs` is the program.
//!
//! | module | contents |
//! |---|---|
//! | [`live`] | the generator: live frames into a device's XDP program |
//! | [`sink`] | the receiver: a counting child process |
//! | [`subject`] | what is measured, and how it is set up |
//! | [`afnet`], [`dpdk`] | the two subjects on AF_XDP |
//! | [`cost`] | time and memory of adding a compartment |
//! | [`report`] | medians, ratios, table and JSON |

pub mod afnet;
pub mod cost;
pub mod dpdk;
pub mod live;
pub mod report;
pub mod sink;
pub mod subject;
