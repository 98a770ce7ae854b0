//! Per-interface network settings below `/proc/sys/net` (those of the process's network namespace).

use std::fs;

use crate::error::{Context, Refused};

/// Reads `net/FAMILY/conf/INTERFACE/KEY`.
pub fn get(family: &str, interface: &str, key: &str) -> Option<String> {
    let path = format!("/proc/sys/net/{family}/conf/{interface}/{key}");
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

/// Sets `net/FAMILY/conf/INTERFACE/KEY`.
pub fn set(family: &str, interface: &str, key: &str, value: &str) -> Result<(), Refused> {
    // As a path component an interface name is itself: it holds no slash, and dots are no separators here.
    let path = format!("/proc/sys/net/{family}/conf/{interface}/{key}");
    fs::write(&path, value).refused(|| format!("writing {value} to {path}"))
}

/// The range of ports that the kernel gives to sockets which ask for any.
pub fn local_port_range() -> (u16, u16) {
    let parse = |text: String| {
        let mut numbers = text.split_whitespace().map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    // The kernel's default, for namespaces whose /proc is not readable.
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(parse)
        .unwrap_or((32768, 60999))
}
