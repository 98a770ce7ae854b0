//! The daemon and its command line as processes, in network namespaces of their own. Needs root.
//!
//! | module | what |
//! |---|---|
//! | [`claims`] | attaching, proofs of ports, who may do what |
//! | [`daemon`] | devices, modes, starts that fail, what stays and what goes |
//! | [`exec`] | who enters compartments, and that nobody gets out |
//! | [`membership`] | the IGMP and MLD machine beside the kernel's |
//! | [`quota`] | the number of sockets of a compartment |
//! | [`reach`] | tenants that cannot reach the control socket's path |
//! | [`release`] | what sockets of a compartment prove, and claims of sockets that are closed |
//! | [`process`] | administrators and tenants; processes moved, listed and ended |
//! | [`cli`] | batches, exec, completion, manual pages |
//!
//! Packets are the business of the crate `afnet-tests`.

mod claims;
mod cli;
mod daemon;
mod exec;
mod fuzz;
mod membership;
mod process;
mod quota;
mod reach;
mod release;
mod tenant;

use afnet_tests::bed::{Bed, DEVICE, HOST_V6};

/// A bed whose kernel has finished making its own addresses and routes: what a daemon leaves is told by comparison.
fn bed(label: &str) -> Bed {
    let bed = Bed::new(label);
    afnet_tests::wait::until_true("link-local addresses", || {
        let routes = bed.host.ip("-6 route show table all");
        routes.matches("fe80:").count() >= 2
            && routes.contains(&format!("local {HOST_V6} "))
            && !bed.host.ip(&format!("addr show dev {DEVICE}")).contains("tentative")
    });
    bed
}
