//! What is measured: a test bed with a receiver in it. The peers are ways of today to give a container its own
//! address on a host's device.
//!
//! ```text
//!                 generator (CPU 0)                                        receiver (CPU 1)
//!  host-socket    dev0 -> XDP_PASS -> stack ----------------------------->  UDP socket of the host
//!  bridge         dev0 -> XDP_PASS -> br0 -> veth -> netns -> stack ------>  UDP socket in a namespace
//!  routing        dev0 -> XDP_PASS -> stack -> veth -> netns -> stack ---->  UDP socket in a namespace
//!  macvlan        dev0 -> XDP_PASS -> macvlan -> netns -> stack ---------->  UDP socket in a namespace
//!  dpdk           dev0 -> the PMD's XDP program -> AF_XDP ---------------->  testpmd rxonly (no copy to a tenant)
//!  afnet          dev0 -> afnet's XDP program -> AF_XDP -> worker -> ring ->  tenant process
//! ```

use std::{env, net::Ipv4Addr, process::Command, time::Duration};

use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, DEVICE},
    netns::Netns,
};
use anyhow::{Context as _, Result};

use crate::{
    afnet, dpdk,
    live::{Generator, Template, Verdict},
    sink::{LOAD_CPU, Sink, pin},
};

/// The port that frames are sent to.
pub const PORT: u16 = 9000;
/// Where a single receiver is.
const RECEIVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Before the measurement: caches, routes and rings fill.
const WARM_UP: Duration = Duration::from_millis(300);

/// A way to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// afnet with this number of compartments that all get their share of frames, all read by one process.
    Afnet(u32),
    /// DPDK's af_xdp PMD with testpmd's rxonly.
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

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Frames per second offered to the device.
    pub offered: f64,
    /// Datagrams per second that the receiver counted.
    pub delivered: f64,
}

impl Subject {
    /// Name for tables.
    pub fn name(self) -> String {
        match self {
            Self::Afnet(1) => "afnet".into(),
            Self::Afnet(compartments) => format!("afnet-{compartments}"),
            Self::Dpdk => "dpdk-rxonly".into(),
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

    /// Sets the subject up, offers frames of each size for `time`, and takes it down.
    ///
    /// # Errors
    /// If a part of it does not start.
    pub fn measure(self, sizes: &[usize], time: Duration) -> Result<Vec<Sample>> {
        let bed = Bed::new("bench");
        let mut addresses = 1;
        // Dropped in this order: receiver, then daemon or namespace, then the bed.
        let (daemon, container): (Option<Afnetd<'_>>, Option<Netns>);
        let mut mac = bed.device_mac();
        let mut sink = match self {
            Self::Afnet(compartments) => {
                addresses = compartments;
                (daemon, container) = (Some(afnet::start(&bed, RECEIVER, compartments)?), None);
                afnet::sink(daemon.as_ref().context("a daemon")?, compartments, None)?
            }
            Self::Dpdk => {
                (daemon, container) = (None, None);
                dpdk::start(&bed.host, DEVICE)?
            }
            _ => {
                (daemon, container) = (None, self.container(&bed));
                let home = container.as_ref().unwrap_or(&bed.host);
                let device = if container.is_some() { "eth0" } else { DEVICE };
                home.ip(&format!("addr add {RECEIVER}/16 dev {device}"));
                if matches!(self, Self::Bridge | Self::Macvlan) {
                    mac = home.mac(device);
                }
                Sink::spawn(kernel_sink(home).arg(PORT.to_string()))?
            }
        };
        sink_ready(self, &mut sink)?;
        let macs = (bed.peer_mac(), mac);
        let samples = bed.host.enter(|| {
            pin(LOAD_CPU)?;
            let mut generator = Generator::new(&bed.host, DEVICE, Verdict::Pass)?;
            let mut sample = |&size| {
                let template = Template { macs, destination: RECEIVER, port: PORT, addresses, size };
                generator.run(&template, WARM_UP)?;
                let before = received(self, &mut sink)?;
                let offered = generator.run(&template, time)?;
                let after = received(self, &mut sink)?;
                let seconds = offered.time.as_secs_f64();
                Ok(Sample {
                    offered: offered.frames as f64 / seconds,
                    delivered: (after - before) as f64 / seconds,
                })
            };
            sizes.iter().map(&mut sample).collect()
        });
        drop(sink);
        drop((daemon, container));
        samples
    }

    /// The namespace of a kernel-path peer, connected to the bed's device, with `eth0` in it.
    fn container(self, bed: &Bed) -> Option<Netns> {
        if self == Self::HostSocket {
            return None;
        }
        let (host, container) = (&bed.host, Netns::new("tenant"));
        let inside = container.name();
        let veth = format!("link add veth0 type veth peer eth0 netns {inside}");
        match self {
            Self::Bridge => {
                host.ip("link add br0 type bridge");
                host.ip(&veth);
                for port in ["veth0", DEVICE] {
                    host.ip(&format!("link set {port} master br0 up"));
                }
                host.ip("link set br0 up");
            }
            Self::Routing => {
                host.ip(&veth);
                host.ip("link set veth0 up");
                host.ip(&format!("route add {RECEIVER}/32 dev veth0"));
                // Frames come from anywhere; the reverse path is not the subject.
                for device in ["all", DEVICE, "veth0"] {
                    host.sysctl(&format!("ipv4/conf/{device}/rp_filter"), "0");
                }
                host.sysctl("ipv4/ip_forward", "1");
            }
            _ => {
                host.ip(&format!("link add eth0 link {DEVICE} netns {inside} type macvlan mode bridge"));
            }
        }
        container.ip("link set eth0 up");
        Some(container)
    }
}

/// `bench sink kernel`, to run in `ns`.
fn kernel_sink(ns: &Netns) -> Command {
    let program = env::current_exe().unwrap_or_else(|_| "bench".into());
    let mut command = ns.command(program);
    command.args(["sink", "kernel"]);
    command
}

fn sink_ready(subject: Subject, sink: &mut Sink) -> Result<()> {
    received(subject, sink).map(drop).with_context(|| format!("{} does not start", subject.name()))
}

fn received(subject: Subject, sink: &mut Sink) -> Result<u64> {
    if subject == Subject::Dpdk { dpdk::count(sink) } else { sink.count() }
}
