//! Test beds for afnet: network namespaces, veth pairs, processes and packets, each a guard that cleans up
//! when it is dropped, after a panic too. Needs root; never touches an interface that it did not make.
//!
//! | module | contents |
//! |---|---|
//! | [`netns`] | a network namespace: run a closure, a command or a process in it |
//! | [`veth`] | a pair of interfaces between two namespaces |
//! | [`xdp_pass`] | a program for the peer's end of a pair |
//! | [`process`] | a process that is killed, by its id, when the guard goes |
//! | [`packet`] | frames: small builders over etherparse |
//! | [`wire`] | raw sender and receiver on an interface (AF_PACKET) |
//! | [`wait`] | waiting for a condition, bounded, instead of sleeping |
//! | [`bed`] | the usual bed: a host with a device, a peer that is the plain kernel stack |
//! | [`afnetd`] | a daemon on a bed and the CLI against it |
//! | [`inside`] | a process in a compartment that does what a test says |
//! | [`shim`] | programs under the socket shim |
//! | [`fuzz`] | what fuzz targets run, and the replay of what they found |
//!
//! Helpers panic with what was tried and what the kernel answered: a failed set-up is a failed test.

pub mod afnetd;
pub mod bed;
pub mod fuzz;
pub mod inside;
pub mod membership;
pub mod netns;
pub mod packet;
pub mod process;
pub mod shim;
pub mod veth;
pub mod wait;
pub mod wire;
pub mod xdp_pass;
