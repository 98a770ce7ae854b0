//! The cases, a test for each file.

use crate::{run::conform, script::parse};

macro_rules! table {
    ($($name:ident: $about:literal,)*) => {
        $(#[doc = $about]
        #[test]
        fn $name() {
            conform(stringify!($name), &parse(include_str!(concat!("cases/", stringify!($name), ".txt"))));
        })*
    };
}

table! {
    wildcard: "Wildcard binds of any number of machines on one port.",
    conflicts: "Binds that exclude each other.",
    sharing: "Ports that are shared within a machine.",
    names: "getsockname, getpeername, accept.",
    source: "Source addresses that the machine chooses.",
    pktinfo: "Source addresses that the program names.",
    loopback: "Private loopback.",
    between: "Compartments and host among themselves.",
    ping: "Ping sockets.",
    multicast: "Multicast and broadcast.",
    kinds: "Other kinds of sockets, and odd calls.",
    changes: "Addresses that come and go.",
    hostile: "What a tenant tries with the addresses of others.",
}
