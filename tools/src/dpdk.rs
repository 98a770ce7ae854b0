//! The peer that sets the mark: DPDK's af_xdp poll mode driver with testpmd's engines, `rxonly`, which counts
//! frames and forgets them, and `macswap`, which sends them back. Optional: Debian packages dpdk, dpdk-dev and librte-meta-all.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use afnet_tests::netns::Netns;
use anyhow::Result;

use crate::sink::{LOAD_CPU, SINK_CPU, Sink};

const PROGRAM: &str = "/usr/bin/dpdk-testpmd";

/// Why it is not here, if so.
pub fn missing() -> Option<String> {
    (!Path::new(PROGRAM).exists()).then(|| "dpdk-testpmd is not installed: tools/setup --bench".into())
}

/// Starts testpmd on queue 0 of a device: command line on CPU 0, the engine on CPU 1.
///
/// # Errors
/// If it does not start.
pub fn start(ns: &Netns, device: &str, mode: &str) -> Result<Sink> {
    let vdev = format!("net_af_xdp0,iface={device},start_queue=0,queue_count=1");
    // Its answers must not wait in a buffer of the C library.
    let mut command = ns.command("stdbuf");
    command.args(["-oL", PROGRAM]);
    run(command, &vdev, mode, SINK_CPU, &[])
}

/// Two processes with an interface of shared memory (memif): what one sends, as fast as it can, the other forgets. Each
/// has a CPU.
///
/// # Errors
/// If one does not start.
pub fn memif(directory: &Path, size: usize) -> Result<(Sink, Sink)> {
    let end = |role: &str, mode: &str, cpu, more: &[&str]| {
        let mut command = Command::new("stdbuf");
        command.args(["-oL", PROGRAM]);
        let socket = directory.join("memif.sock");
        let vdev = format!("net_memif0,role={role},id=0,socket-abstract=no,socket={}", socket.display());
        run(command, &vdev, mode, cpu, more)
    };
    let mut receiver = end("server", "rxonly", SINK_CPU, &[])?;
    count(&mut receiver)?;
    let sender = end("client", "txonly", LOAD_CPU, &[&format!("--txpkts={size}")])?;
    Ok((receiver, sender))
}

fn run(mut command: Command, vdev: &str, mode: &str, cpu: usize, more: &[&str]) -> Result<Sink> {
    // The command line's thread, which sleeps, is on the other CPU.
    let main = if cpu == SINK_CPU { LOAD_CPU } else { SINK_CPU };
    command
        .args(["--no-huge", "-m", "1024", "--no-pci", "--no-telemetry"])
        .arg(format!("--file-prefix=afnet-bench-{mode}"))
        .args(["-l", "0,1", "--main-lcore", &main.to_string()])
        .arg(format!("--vdev={vdev}"))
        .arg("--")
        .arg(format!("--forward-mode={mode}"))
        .args(["--auto-start", "--total-num-mbufs=32768", "-i"])
        .args(more)
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
