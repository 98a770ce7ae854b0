//! What adding a container with one address costs: time, and memory of kernel and daemon, at some number of them; and what
//! the daemon does while a thousand tenants wait.
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
    afnetd::{Afnetd, Connection, spec},
    bed::{Bed, DEVICE},
    netns::Netns,
};
use anyhow::{Context as _, Result, ensure};

use crate::{
    afnet,
    figures::{Bench, Column, Findings, Wanted},
    subject::{FIRST, Wake},
};

/// The kernel frees and accounts some memory late, namespaces of what was measured before above all.
const SETTLE: Duration = Duration::from_secs(3);

/// Lines of /proc/meminfo that are memory in use, none within another.
const IN_USE: [&str; 6] = ["AnonPages", "Shmem", "Slab", "KernelStack", "PageTables", "Percpu"];

/// Namespaces are not tried in greater numbers: they take a tenth of a second and a third of a megabyte each.
const MOST_NAMESPACES: u32 = 1000;
/// Tenants that wait while the daemon's idle time is measured, and for how long.
const IDLE: u32 = 1000;
const LOOK: Duration = Duration::from_secs(5);

const COLUMNS: [Column; 3] = [
    Column { name: "add", unit: "ms each", less: true },
    Column { name: "memory", unit: "KiB each", less: true },
    Column { name: "daemon", unit: "KiB each", less: true },
];

/// Compartments by the control socket and by two calls of the command for each, and network namespaces with a veth pair
/// to a bridge by two calls of `ip -batch` for each; and what the daemon does while nobody wants anything.
pub fn run(bench: &Bench, numbers: &[u32]) -> Findings {
    let mut findings = Findings::default();
    for &number in numbers {
        let mut subjects = [("afnet", Way::Afnet), ("command", Way::Command), ("netns+bridge", Way::Bridge)]
            .map(|(name, way)| (format!("{name}, {number}"), way));
        let [afnet, command, bridge] = subjects.clone().map(|(name, _)| name);
        let wanted: [Wanted<'_>; 3] = [
            ("add", &afnet, &bridge, None),
            ("add", &command, &bridge, None),
            ("memory", &afnet, &bridge, None),
        ];
        let once = Bench { rounds: 1, ..bench.clone() };
        findings.rounds(&once, &mut subjects, &COLUMNS, &wanted, |way| match way {
            Way::Afnet => afnet_by(number, add_by_socket),
            Way::Command => afnet_by(number, add_by_command),
            Way::Bridge => {
                ensure!(number <= MOST_NAMESPACES, "more than {MOST_NAMESPACES} take too long");
                bridges(number)
            }
        });
    }
    let columns = [Column { name: "idle", unit: "% of a CPU", less: true }];
    let mut subjects = [(format!("{IDLE} tenants"), ())];
    findings.rounds(bench, &mut subjects, &columns, &[], |()| idle());
    findings
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Afnet,
    Command,
    Bridge,
}

type Add = fn(&Afnetd<'_>, &mut Connection, u32) -> Result<()>;

fn afnet_by(number: u32, add: Add) -> Result<Vec<f64>> {
    let bed = Bed::new("cost");
    let mut daemon = afnet::daemon(&bed, number, &[])?;
    let pid = daemon.process().id();
    let mut connection = daemon.connect();
    let before = resident(pid)?;
    let mut row = measure(number, |i| add(&daemon, &mut connection, i))?;
    row.push((resident(pid)? - before) / f64::from(number));
    Ok(row)
}

fn add_by_socket(_: &Afnetd<'_>, connection: &mut Connection, i: u32) -> Result<()> {
    let name = format!("c{i}");
    connection
        .request(&Request::Add { name: name.clone(), policy: Policy::default() })
        .and_then(|_| {
            connection.request(&Request::AddrAdd { address: spec(&format!("{}/16", address(i))), name })
        })
        .map_err(|refusal| anyhow::anyhow!(refusal.message))?;
    Ok(())
}

fn add_by_command(daemon: &Afnetd<'_>, _: &mut Connection, i: u32) -> Result<()> {
    daemon.ok(&format!("add c{i}"));
    daemon.ok(&format!("addr add {}/16 dev {DEVICE} afnetns c{i}", address(i)));
    Ok(())
}

/// KiB of the daemon's memory.
fn resident(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    number.context("VmRSS of the daemon")
}

/// CPU time of the daemon in percent while [`IDLE`] tenants wait, each in a compartment of its own.
fn idle() -> Result<Vec<f64>> {
    let bed = Bed::new("idle");
    let mut daemon = afnet::start(&bed, FIRST, IDLE, Wake::Adaptive)?;
    let pid = daemon.process().id();
    let mut tenants = afnet::waiting(&daemon, IDLE)?;
    tenants.count().context("the tenants do not start")?;
    thread::sleep(SETTLE);
    let ticks = || -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // utime and stime, the 14th and 15th of proc(5).
        let number = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
        number(11).zip(number(12)).map(|(user, system)| user + system).context("times of the daemon")
    };
    let before = ticks()?;
    thread::sleep(LOOK);
    Ok(vec![(ticks()? - before) / LOOK.as_secs_f64()])
}

fn bridges(number: u32) -> Result<Vec<f64>> {
    let host = Netns::new("cost");
    host.ip("link add br0 type bridge");
    host.ip("link set br0 up");
    // Bridge ports are few (1024), so bridges take turns; that costs them next to nothing.
    let mut made = Namespaces::default();
    let mut row = measure(number, |i| {
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
    })?;
    row.push(0.0);
    Ok(row)
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

/// Milliseconds and KiB for each.
fn measure(number: u32, mut add: impl FnMut(u32) -> Result<()>) -> Result<Vec<f64>> {
    thread::sleep(SETTLE);
    let (before, start) = (in_use()?, Instant::now());
    for i in 0..number {
        add(i).with_context(|| format!("number {i}"))?;
    }
    let time = start.elapsed();
    thread::sleep(SETTLE);
    let used = in_use()? - before;
    let each = f64::from(number);
    Ok(vec![time.as_secs_f64() * 1e3 / each, used / each])
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
