//! The peer that sets the mark: DPDK's af_xdp poll mode driver with testpmd's `rxonly` engine, which counts
//! frames and forgets them. Optional: Debian packages dpdk, dpdk-dev and librte-meta-all.

use std::{path::Path, process::Stdio};

use afnet_tests::netns::Netns;
use anyhow::Result;

use crate::sink::Sink;

const PROGRAM: &str = "/usr/bin/dpdk-testpmd";

/// Why it is not here, if so.
pub fn missing() -> Option<String> {
    (!Path::new(PROGRAM).exists()).then(|| "dpdk-testpmd is not installed: tools/setup --bench".into())
}

/// Starts testpmd on queue 0 of a device: command line on CPU 0, receiver on CPU 1.
///
/// # Errors
/// If it does not start.
pub fn start(ns: &Netns, device: &str) -> Result<Sink> {
    // Its answers must not wait in a buffer of the C library.
    let mut command = ns.command("stdbuf");
    command
        .args([
            "-oL",
            PROGRAM,
            "--no-huge",
            "-m",
            "1024",
            "--no-pci",
            "--no-telemetry",
            "--file-prefix=afnet-bench",
            "-l",
            "0,1",
        ])
        .arg(format!("--vdev=net_af_xdp0,iface={device},start_queue=0,queue_count=1"))
        .args(["--", "--forward-mode=rxonly", "--auto-start", "--total-num-mbufs=32768", "-i"])
        .stderr(Stdio::null());
    Sink::spawn(&mut command)
}

/// Frames received so far.
///
/// # Errors
/// If testpmd has ended.
pub fn count(sink: &mut Sink) -> Result<u64> {
    sink.say("show port stats 0")?;
    loop {
        // "  RX-packets: 123        RX-missed: 0          RX-bytes:  7872"
        if let Some((_, rest)) = sink.line()?.split_once("RX-packets:")
            && let Some(number) = rest.split_whitespace().next()
        {
            return Ok(number.parse()?);
        }
    }
}
