//! Integration tests: afnetd and tenants in a network namespace, the kernel's own stack in another as the peer
//! that judges. One module for each subject. Root is needed.

mod cli;
mod harness;
mod lifecycle;
mod responder;
mod tenant;
mod udp;
