//! The cases, a test for each table.

use crate::run::conform;

macro_rules! tables {
    ($($name:ident: $about:literal,)*) => {
        $(#[doc = $about]
        #[test]
        fn $name() {
            conform(stringify!($name));
        })*
    };
}

tables! {
    send: "Ways to send.",
    receive: "Ways to receive.",
    names: "bind, connect, names, shutdown, both families.",
    options: "Options and waiting.",
    control: "Control messages.",
    errors: "Errors that come back.",
    ready: "poll and select.",
    epoll: "epoll.",
    threads: "Threads and signals.",
    process: "Processes.",
    descriptors: "Descriptors.",
    environment: "Surroundings of a process.",
    groups: "Multicast.",
}
