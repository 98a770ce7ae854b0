//! The suites.

use crate::{
    fetch::{self, Crate},
    results::{self, Results},
};

/// A suite.
pub struct Suite {
    pub name: &'static str,
    /// Gets and builds it, if it is not there; the words of its command.
    pub prepare: fn() -> Vec<String>,
    /// What its output says.
    pub results: fn(&str) -> Results,
    /// Why the shim has nothing to do, if so.
    pub idle: Option<Idle>,
    /// What fails under the shim alone, and why that stays so.
    pub accepted: &'static [(&'static str, &'static str)],
}

/// Why the shim has nothing to do.
#[derive(Clone, Copy)]
pub enum Idle {
    /// There are no UDP sockets that send and receive, or few.
    Nothing(&'static str),
    /// They wait for their sockets unseen: by system calls without the C library.
    Unseen(&'static str),
}

/// The interpreter that Debian's libpython3.11-testsuite is for.
const PYTHON: &str = "/usr/bin/python3.11";

/// CPython's tests.
fn python(tests: &[&str]) -> Vec<String> {
    [&[PYTHON, "-m", "test", "-v", "--timeout", "120"], tests]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect()
}

const fn krate(name: &'static str, version: &'static str, target: &'static [&'static str]) -> Crate {
    Crate { name, version, target, features: &[], rustflags: "", filter: &[] }
}

/// All of them. UDP-Lite is none of a compartment's protocols.
pub const SUITES: &[Suite] = &[
    Suite {
        name: "python-socket",
        prepare: || {
            python(&[
                "test_socket",
                "-m",
                "*UDP*",
                "-m",
                "*Recvmsg*",
                "-m",
                "*Sendmsg*",
                "-m",
                "*Timeout*",
                "-i",
                "*UDPLITE*",
            ])
        },
        results: results::python,
        idle: None,
        accepted: &[],
    },
    Suite {
        name: "python-select",
        prepare: || python(&["test_select", "test_poll", "test_epoll", "test_selectors"]),
        results: results::python,
        idle: Some(Idle::Nothing("TCP and pipes")),
        accepted: &[],
    },
    Suite {
        name: "python-asyncio",
        prepare: || {
            python(&["test_asyncio", "-m", "*datagram*", "-m", "*Datagram*", "-m", "*udp*", "-m", "*sendto*"])
        },
        results: results::python,
        idle: None,
        accepted: &[],
    },
    Suite {
        name: "python-socketserver",
        prepare: || python(&["test_socketserver", "-u", "network", "-m", "*UDP*"]),
        results: results::python,
        idle: Some(Idle::Nothing("a client asks once and is gone, perhaps before its socket has joined")),
        accepted: &[],
    },
    Suite {
        name: "tokio-udp",
        prepare: || {
            fetch::rust(&Crate { features: &["full"], ..krate("tokio", "1.54.1", &["--test", "udp"]) })
        },
        results: results::rust,
        idle: None,
        accepted: &[],
    },
    // The published crate has no tests but those of its documentation.
    Suite {
        name: "mio-udp",
        prepare: || {
            let features = &["os-poll", "net"];
            fetch::documentation(&Crate { features, filter: &["net::udp"], ..krate("mio", "1.2.5", &[]) })
        },
        results: results::rust,
        idle: None,
        accepted: &[],
    },
    Suite {
        name: "nix-socket",
        prepare: || {
            // One fails anywhere if a datagram is under way for a while.
            let filter = &["sys::test_socket::", "sys::test_sockopt::", "--skip", "test_recvmm2"];
            let target = &["--all-features", "--test", "test"];
            fetch::rust(&Crate { filter, ..krate("nix", "0.30.1", target) })
        },
        results: results::rust,
        idle: None,
        accepted: &[(
            "sys::test_socket::test_recvif_ipv6",
            "getifaddrs shows ::1 under the shim alone; the control message shows the true address, as that of IPv4",
        )],
    },
    Suite {
        name: "quinn-udp",
        prepare: || fetch::rust(&krate("quinn-udp", "0.5.16", &["--test", "tests"])),
        results: results::rust,
        idle: None,
        accepted: &[],
    },
    Suite {
        name: "quinn",
        prepare: || fetch::rust(&krate("quinn", "0.11.12", &["--lib"])),
        results: results::rust,
        idle: None,
        accepted: &[],
    },
    Suite {
        name: "quinn-connections",
        // Too long for every day: half a minute.
        prepare: || {
            let filter = &["--ignored"];
            fetch::rust(&Crate { filter, ..krate("quinn", "0.11.12", &["--test", "many_connections"]) })
        },
        results: results::rust,
        idle: None,
        accepted: &[],
    },
    Suite {
        name: "polling",
        prepare: || fetch::rust(&krate("polling", "3.11.0", &["--tests"])),
        results: results::rust,
        idle: Some(Idle::Unseen("rustix waits by system calls of its own")),
        accepted: &[],
    },
    Suite {
        name: "async-io",
        prepare: || fetch::rust(&krate("async-io", "2.6.0", &["--test", "async"])),
        results: results::rust,
        idle: Some(Idle::Unseen("polling waits by rustix, which has system calls of its own")),
        accepted: &[],
    },
    Suite {
        name: "async-io-libc",
        prepare: || {
            let rustflags = "--cfg rustix_use_libc";
            fetch::rust(&Crate { rustflags, ..krate("async-io", "2.6.0", &["--test", "async"]) })
        },
        results: results::rust,
        idle: None,
        accepted: &[],
    },
    Suite {
        name: "libuv-udp",
        prepare: || fetch::libuv("udp"),
        results: results::tap,
        idle: None,
        accepted: &[],
    },
];
