//! What adding a container with one address costs: time, and memory of kernel and daemon, at some number of them.
//!
//! Memory is by how much the kernel's and all programs' memory grows (/proc/meminfo without caches and free pages, whose
//! numbers move by themselves); a quiet machine moves it by some hundred KiB.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use afnet_abi::control::{Policy, Request};
use afnet_tests::{
    afnetd::{Afnetd, spec},
    bed::{Bed, DEVICE},
    netns::Netns,
};
use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

/// The kernel frees and accounts some memory late, namespaces of what was measured before above all.
const SETTLE: Duration = Duration::from_secs(3);

/// Lines of /proc/meminfo that are memory in use, none within another.
const IN_USE: [&str; 6] = ["AnonPages", "Shmem", "Slab", "KernelStack", "PageTables", "Percpu"];

/// Cost of each of a number of containers.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// How they were made.
    pub way: String,
    /// How many.
    pub number: u32,
    /// Time for each in milliseconds.
    pub milliseconds: f64,
    /// Memory for each in KiB.
    pub kibibytes: f64,
}

/// Compartments of afnet, each with one IPv4 address, through the control socket.
///
/// # Errors
/// If the daemon refuses.
pub fn afnet(number: u32) -> Result<Cost> {
    let bed = Bed::new("cost");
    let daemon = Afnetd::start(&bed);
    let mut connection = daemon.connect();
    measure("afnet", number, |i| {
        let name = format!("c{i}");
        connection
            .request(&Request::Add { name: name.clone(), policy: Policy::default() })
            .and_then(|_| {
                connection.request(&Request::AddrAdd { address: spec(&format!("{}/16", address(i))), name })
            })
            .map_err(|refusal| anyhow::anyhow!(refusal.message))?;
        Ok(())
    })
}

/// The same by two calls of the command for each.
///
/// # Errors
/// If the daemon refuses.
pub fn afnet_command(number: u32) -> Result<Cost> {
    let bed = Bed::new("cost");
    let daemon = Afnetd::start(&bed);
    measure("afnet, command line", number, |i| {
        daemon.ok(&format!("add c{i}"));
        daemon.ok(&format!("addr add {}/16 dev {DEVICE} afnetns c{i}", address(i)));
        Ok(())
    })
}

/// Network namespaces with a veth pair to a bridge, by two calls of `ip -batch` for each.
///
/// # Errors
/// If `ip` does not start.
pub fn bridge(number: u32) -> Result<Cost> {
    let host = Netns::new("cost");
    host.ip("link add br0 type bridge");
    host.ip("link set br0 up");
    // Bridge ports are few (1024), so bridges take turns; that costs them next to nothing.
    let mut made = Namespaces::default();
    measure("netns+veth+bridge", number, |i| {
        if i % 512 == 0 && i > 0 {
            batch(host.command("ip"), &format!("link add br{} type bridge\nlink set br{0} up", i / 512))?;
        }
        let name = format!("{}-{i}", host.name());
        batch(
            host.command("ip"),
            &format!(
                "netns add {name}\nlink add v{i} type veth peer eth0 netns {name}\nlink set v{i} master br{} up",
                i / 512
            ),
        )?;
        made.0.push(name.clone());
        let mut inside = Command::new("ip");
        inside.args(["-n", &name]);
        batch(inside, &format!("addr add {}/16 dev eth0\nlink set eth0 up", address(i)))
    })
}

/// Namespaces to be removed.
#[derive(Default)]
struct Namespaces(Vec<String>);

impl Drop for Namespaces {
    fn drop(&mut self) {
        let lines: Vec<String> = self.0.iter().map(|name| format!("netns del {name}")).collect();
        let _ = batch(Command::new("ip"), &lines.join("\n"));
    }
}

/// `ip -batch` of these lines.
fn batch(mut ip: Command, lines: &str) -> Result<()> {
    let mut child = ip.args(["-batch", "-"]).stdin(Stdio::piped()).spawn().context("start ip")?;
    child.stdin.take().context("a pipe")?.write_all(lines.as_bytes())?;
    ensure!(child.wait()?.success(), "ip -batch refused: {lines}");
    Ok(())
}

fn measure(way: &str, number: u32, mut add: impl FnMut(u32) -> Result<()>) -> Result<Cost> {
    thread::sleep(SETTLE);
    let (before, start) = (in_use()?, Instant::now());
    for i in 0..number {
        add(i).with_context(|| format!("{way}: number {i}"))?;
    }
    let time = start.elapsed();
    thread::sleep(SETTLE);
    let used = in_use()? - before;
    let each = f64::from(number);
    Ok(Cost {
        way: way.into(),
        number,
        milliseconds: time.as_secs_f64() * 1e3 / each,
        kibibytes: used / each,
    })
}

/// The i-th address.
fn address(i: u32) -> std::net::Ipv4Addr {
    (u32::from(std::net::Ipv4Addr::new(10, 78, 1, 1)) + i).into()
}

/// Sum of [`IN_USE`] in KiB.
fn in_use() -> Result<f64> {
    let info = fs::read_to_string("/proc/meminfo")?;
    let field = |name| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        number.with_context(|| format!("{name} in /proc/meminfo"))
    };
    IN_USE.into_iter().map(field).sum()
}
