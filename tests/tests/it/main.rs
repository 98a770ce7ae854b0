//! Integration tests: afnetd and tenants in a network namespace, the kernel's own stack in another as the peer
//! that judges. One module for each subject. Root is needed.

mod bare;
mod by_hand;
mod claims;
mod cli;
mod client;
mod dad;
mod dad_later;
mod echo;
mod errors;
mod fragments;
mod groups;
mod groups_hostile;
mod groups_shim;
mod harness;
mod host;
mod hostile;
mod isolated;
mod jumbo;
mod kernel_groups;
mod kernel_hostile;
mod kernel_path;
mod lifecycle;
mod limit;
mod local;
mod loopback;
mod maddr;
mod queues;
mod raw;
mod recovery;
mod responder;
mod segments;
mod sharing;
mod tenant;
mod udp;
mod vlan;
