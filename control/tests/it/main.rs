//! The daemon and its command line as processes, in network namespaces of their own. Needs root.
//!
//! | module | what |
//! |---|---|
//! | [`claims`] | attaching, proofs of ports, who may do what |
//! | [`daemon`] | devices, modes, starts that fail, what stays and what goes |
//! | [`cli`] | batches, exec, completion, manual pages |
//!
//! Packets are the business of the crate `afnet-tests`.

mod claims;
mod cli;
mod daemon;
mod tenant;
