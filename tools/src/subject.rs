//! What is measured: a test bed with a receiver in it. The peers are ways of today to give a container its own
//! address on a host's device.
//!
//! ```text
//!                 generator (CPU 0)                                        receiver (CPU 1)
//!  host-socket    dev0 -> XDP_PASS -> stack ----------------------------->  UDP socket of the host
//!  bridge         dev0 -> XDP_PASS -> br0 -> veth -> netns -> stack ------>  UDP socket in a namespace
//!  routing        dev0 -> XDP_PASS -> stack -> veth -> netns -> stack ---->  UDP socket in a namespace
//!  macvlan        dev0 -> XDP_PASS -> macvlan -> netns -> stack ---------->  UDP socket in a namespace
//!  dpdk           dev0 -> the PMD's XDP program -> AF_XDP ---------------->  testpmd (no copy to a tenant)
//!  afnet          dev0 -> afnet's XDP program -> AF_XDP -> worker -> ring ->  tenant process
//! ```

use std::{env, net::Ipv4Addr, time::Duration};

use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, DEVICE},
    netns::Netns,
    packet::Mac,
};
use anyhow::{Context as _, Result, bail};

use crate::{
    afnet, dpdk,
    live::{Generator, SOURCE, Template, Verdict},
    sink::{LOAD_CPU, Sink, pin},
};

/// The port that frames are sent to.
pub const PORT: u16 = 9000;
/// Where the first receiver is.
pub const FIRST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Before the measurement: caches, routes and rings fill.
pub const WARM_UP: Duration = Duration::from_millis(300);

/// A way to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// afnet with this number of compartments that all get their share of frames, all read by one process.
    Afnet(u32),
    /// DPDK's af_xdp PMD with testpmd.
    Dpdk,
    /// A namespace behind a bridge.
    Bridge,
    /// A namespace behind a route.
    Routing,
    /// A namespace with a macvlan of the device.
    Macvlan,
    /// No container at all.
    HostSocket,
}

/// What a receiver does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Counts.
    Count,
    /// Sends everything back.
    Echo(Wake),
}

/// How afnet's worker and its tenant wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Wake {
    /// Not at all.
    Busy,
    /// Look for a while, then sleep.
    #[default]
    Adaptive,
    /// Sleep.
    Interrupt,
}

impl Wake {
    /// As an argument of afnetd.
    pub fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Adaptive => "adaptive",
            Self::Interrupt => "interrupt",
        }
    }
}

/// A subject that is set up on a bed.
#[derive(Debug)]
pub struct Standing<'a> {
    /// The MAC address that frames are for.
    pub mac: Mac,
    /// Whether the receiver is testpmd.
    dpdk: bool,
    // Dropped in this order: receiver, then where it is.
    sink: Sink,
    _daemon: Option<Afnetd<'a>>,
    _container: Option<Netns>,
}

impl Standing<'_> {
    /// What the receiver has counted. The first call waits until it is there.
    ///
    /// # Errors
    /// If it has ended.
    pub fn received(&mut self) -> Result<u64> {
        if self.dpdk { dpdk::count(&mut self.sink) } else { self.sink.count() }
    }
}

impl Subject {
    /// Name for tables.
    pub fn name(self) -> String {
        match self {
            Self::Afnet(1) => "afnet".into(),
            Self::Afnet(compartments) => format!("afnet-{compartments}"),
            Self::Dpdk => "dpdk".into(),
            Self::Bridge => "netns+bridge".into(),
            Self::Routing => "netns+routing".into(),
            Self::Macvlan => "macvlan".into(),
            Self::HostSocket => "host-socket".into(),
        }
    }

    /// Why it cannot be measured here, if so.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Dpdk => dpdk::missing(),
            _ => None,
        }
    }

    /// Number of addresses, from [`FIRST`] on.
    fn addresses(self) -> u32 {
        if let Self::Afnet(compartments) = self { compartments } else { 1 }
    }

    /// Sets the subject up, with its receiver, which knows its way back to the bed's peer.
    ///
    /// # Errors
    /// If a part of it does not start.
    pub fn stand(self, bed: &Bed, task: Task) -> Result<Standing<'_>> {
        let wake = if let Task::Echo(wake) = task { wake } else { Wake::default() };
        let (mut daemon, mut container, mut mac) = (None, None, bed.device_mac());
        let sink = match self {
            Self::Afnet(compartments) => {
                know_the_peer(bed, &bed.host, DEVICE);
                let daemon = daemon.insert(afnet::start(bed, FIRST, compartments, wake)?);
                match task {
                    Task::Count => afnet::sink(daemon, 0..compartments, None)?,
                    Task::Echo(wake) => afnet::echo(daemon, 0, wake)?,
                }
            }
            Self::Dpdk => {
                let mode = if task == Task::Count { "rxonly" } else { "macswap" };
                dpdk::start(&bed.host, DEVICE, mode)?
            }
            _ => {
                let home = match self.container(bed, 0) {
                    Some(inside) => container.insert(inside),
                    None => &bed.host,
                };
                if matches!(self, Self::Bridge | Self::Macvlan) {
                    mac = home.mac("eth0");
                }
                kernel_sink(home, task)?
            }
        };
        let dpdk = self == Self::Dpdk;
        let mut standing = Standing { mac, dpdk, sink, _daemon: daemon, _container: container };
        standing.received().with_context(|| format!("{} does not start", self.name()))?;
        Ok(standing)
    }

    /// Sets the subject up, offers frames for `time`, and takes it down. Millions of frames per second: delivered,
    /// and offered.
    ///
    /// # Errors
    /// If a part of it does not start.
    pub fn measure(self, size: usize, time: Duration) -> Result<Vec<f64>> {
        if let Some(why) = self.missing() {
            bail!(why);
        }
        let bed = Bed::new("bench");
        let mut standing = self.stand(&bed, Task::Count)?;
        let macs = (bed.peer_mac(), standing.mac);
        let template = Template { macs, destination: FIRST, port: PORT, addresses: self.addresses(), size };
        bed.host.enter(|| {
            pin(LOAD_CPU)?;
            let mut generator = Generator::new(&bed.host, DEVICE, Verdict::Pass)?;
            generator.run(&template, WARM_UP)?;
            let before = standing.received()?;
            let offered = generator.run(&template, time)?;
            let after = standing.received()?;
            let millions = offered.time.as_secs_f64() * 1e6;
            Ok(vec![(after - before) as f64 / millions, offered.frames as f64 / millions])
        })
    }

    /// The i-th container of a kernel-path peer with its address and its way to the bed's peer: a namespace, connected
    /// to the bed's device, with `eth0` in it; none: the host itself.
    pub fn container(self, bed: &Bed, i: u32) -> Option<Netns> {
        let (host, address) = (&bed.host, Ipv4Addr::from(u32::from(FIRST) + i));
        if self == Self::HostSocket {
            host.ip(&format!("addr add {address}/16 dev {DEVICE}"));
            know_the_peer(bed, host, DEVICE);
            return None;
        }
        let container = Netns::new("tenant");
        let inside = container.name();
        let veth = format!("link add veth{i} type veth peer eth0 netns {inside}");
        match self {
            Self::Bridge => {
                if i == 0 {
                    host.ip("link add br0 type bridge");
                    host.ip("link set br0 up");
                    host.ip(&format!("link set {DEVICE} master br0 up"));
                }
                host.ip(&veth);
                host.ip(&format!("link set veth{i} master br0 up"));
            }
            Self::Routing => {
                host.ip(&veth);
                host.ip(&format!("link set veth{i} up"));
                host.ip(&format!("route add {address}/32 dev veth{i}"));
                // Frames come from anywhere; the reverse path is not the subject.
                for device in ["all", DEVICE, &format!("veth{i}")] {
                    host.sysctl(&format!("ipv4/conf/{device}/rp_filter"), "0");
                }
                host.sysctl("ipv4/ip_forward", "1");
                host.ip(&format!("route replace 10.77.255.0/24 dev {DEVICE}"));
                know_the_peer(bed, host, DEVICE);
            }
            _ => {
                host.ip(&format!("link add eth0 link {DEVICE} netns {inside} type macvlan mode bridge"));
            }
        }
        container.ip("link set eth0 up");
        container.ip(&format!("addr add {address}/16 dev eth0"));
        if self == Self::Routing {
            let mac = mac_text(host.mac(&format!("veth{i}")));
            container.ip(&format!("neigh replace {SOURCE} lladdr {mac} dev eth0 nud permanent"));
        } else {
            know_the_peer(bed, &container, "eth0");
        }
        Some(container)
    }
}

/// Where frames come from, so that answers need not ask.
pub fn know_the_peer(bed: &Bed, ns: &Netns, device: &str) {
    if ns.name() == bed.host.name() && !ns.ip("route").contains("10.77.") {
        ns.ip(&format!("route add 10.77.255.0/24 dev {device}"));
    }
    let mac = mac_text(bed.peer_mac());
    ns.ip(&format!("neigh replace {SOURCE} lladdr {mac} dev {device} nud permanent"));
}

/// As commands take it.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A kernel socket that does its task in `ns`.
///
/// # Errors
/// If it does not start.
pub fn kernel_sink(ns: &Netns, task: Task) -> Result<Sink> {
    let mut command = ns.command(env::current_exe()?);
    let what = if task == Task::Count { "kernel" } else { "kernel-echo" };
    Sink::spawn(command.args(["sink", what, &PORT.to_string()]))
}
