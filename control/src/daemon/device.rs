//! A device that the daemon owns: its XDP program, its maps, and how good a mode it got.
//!
//! ```text
//! find -> lock -> load program -> (restored addresses enter the maps) -> attach -> bind sockets
//! ```
//! Until it is attached nothing has changed for the device's traffic. An interface may vanish and come back; the
//! [`Device`] stays, and what is live of it goes and comes.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use afnet_bpf::{AttachMode, Demux, DemuxConfig, Dirty, Limits, Sockets};
use afnet_dataplane::{Dataplane, DirtyMap, ModePreference, QueueMode, SocketMap};
use rustix::io::Errno;

use crate::config::{DeviceConfig, LimitsConfig, Mode};
use crate::error::Refused;
use crate::netlink::{Netlink, ethtool, link::Link};
use crate::system::lock::DeviceLock;

/// Largest MTU whose frames fit into one page with all that the kernel keeps beside them; above, the program has to
/// accept frames of several buffers.
const SINGLE_BUFFER_MTU: u32 = 3498;

/// A mode's name.
const ZERO_COPY: &str = "zero-copy";

/// A device of the configuration.
#[derive(Debug)]
pub struct Device {
    /// As configured.
    pub config: DeviceConfig,
    /// What there is while the interface exists.
    pub live: Option<Live>,
}

/// A device whose interface exists.
#[derive(Debug)]
pub struct Live {
    /// The interface.
    pub link: Link,
    /// RX queues in use.
    pub queues: u32,
    /// Its program and maps.
    pub demux: Demux,
    /// `zero-copy`, `copy` or `generic`.
    pub mode: &'static str,
    /// Why each better mode was refused.
    pub refused: Vec<String>,
    _lock: DeviceLock,
}

impl Live {
    /// MAC address; checked when the device was found.
    pub fn mac(&self) -> [u8; 6] {
        self.link.mac.unwrap_or_default()
    }

    /// Whether it sends without a copy.
    pub fn is_zero_copy(&self) -> bool {
        self.mode == ZERO_COPY
    }
}

/// Finds the interface, takes the lock and loads the program. Nothing is attached.
pub fn load(netlink: &mut Netlink, config: &DeviceConfig, limits: &LimitsConfig) -> Result<Live, Refused> {
    let name = &config.name;
    let link = netlink.link(name).map_err(|e| match e.errno {
        Errno::NODEV => {
            Refused::new(Errno::NODEV, format!("there is no interface {name} in this network namespace"))
        }
        _ => e.refused(format!("looking for {name}")),
    })?;
    if !link.ethernet || link.mac.is_none() {
        let text = format!("{name} is no Ethernet interface: compartments live behind a MAC address");
        return Err(Refused::new(Errno::OPNOTSUPP, text));
    }
    let lock = DeviceLock::take(link.ifindex, name)?;
    let queues = ethtool::rx_queues(name).unwrap_or(link.rx_queues).max(1);
    let demux = load_demux(&link, queues, limits)?;
    Ok(Live { link, queues, demux, mode: "", refused: Vec::new(), _lock: lock })
}

fn load_demux(link: &Link, queues: u32, limits: &LimitsConfig) -> Result<Demux, Refused> {
    let config = DemuxConfig {
        ifindex: link.ifindex,
        mac: link.mac.unwrap_or_default(),
        queues,
        frags: link.mtu > SINGLE_BUFFER_MTU,
        limits: Limits {
            compartments: limits.compartments,
            addresses: limits.addresses,
            prefixes: limits.prefixes,
            claims: limits.claims,
            groups: limits.groups,
        },
    };
    Demux::load(&config).map_err(|e| bpf(format!("loading the XDP program for {}", link.name), &e))
}

impl Live {
    /// Attaches the program in the best mode that the configuration allows.
    pub fn attach(&mut self, mode: Mode, pin: &Path) -> Result<(), Refused> {
        let name = &self.link.name;
        if mode != Mode::Generic {
            match self.demux.attach(AttachMode::Native, pin) {
                Ok(()) => return Ok(()),
                Err(e @ afnet_bpf::Error::Busy { .. }) => {
                    return Err(bpf(format!("attaching the XDP program to {name}"), &e));
                }
                Err(e) if mode == Mode::Auto => self.refused.push(format!("XDP in the driver: {e}")),
                Err(e) => {
                    let what = format!("attaching the XDP program to the driver of {name}");
                    let mut refused = bpf(what, &e);
                    refused.message += ": use --mode auto or generic";
                    return Err(refused);
                }
            }
        }
        let what = || format!("attaching the XDP program to {name} in generic mode");
        self.demux.attach(AttachMode::Generic, pin).map_err(|e| bpf(what(), &e))?;
        self.mode = "generic";
        Ok(())
    }

    /// Binds the workers' sockets.
    pub fn bind(&mut self, mode: Mode, dataplane: &mut Dataplane) -> Result<(), Refused> {
        let name = &self.link.name;
        let handle = |e: &afnet_bpf::Error| bpf(format!("the maps of {name}"), e);
        let want = match mode {
            _ if self.mode == "generic" => ModePreference::Copy,
            Mode::Auto => ModePreference::Best,
            Mode::ZeroCopy => ModePreference::ZeroCopy,
            Mode::Copy | Mode::Generic => ModePreference::Copy,
        };
        let report = dataplane
            .add_device(afnet_dataplane::Device {
                name: name.clone(),
                ifindex: self.link.ifindex,
                mac: self.mac(),
                mtu: self.link.mtu,
                queues: self.queues,
                want,
                sockets: Box::new(XskMap(self.demux.sockets().map_err(|e| handle(&e))?)),
                dirty: Box::new(DirtyBits(self.demux.dirty().map_err(|e| handle(&e))?)),
            })
            .map_err(|e| dataplane_error(format!("binding AF_XDP sockets to {name}"), &e))?;
        self.refused.extend(report.refused.iter().map(|(mode, why)| format!("{mode}: {why}")));
        if self.mode.is_empty() {
            self.mode = match report.mode {
                QueueMode::ZeroCopy => ZERO_COPY,
                QueueMode::Copy => "copy",
            };
        }
        tracing::info!("{name}: {} queues, mode {}", self.queues, self.mode);
        self.refused.iter().for_each(|why| tracing::info!("{name}: refused {why}"));
        Ok(())
    }
}

/// The XDP program's sockets, for the workers.
#[derive(Debug)]
pub struct XskMap(pub Sockets);

impl SocketMap for XskMap {
    fn set(&self, slot: u32, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.0.set(slot, queue, socket).map_err(|e| io_error(&e))
    }

    fn clear(&self, slot: u32, queue: u32) -> io::Result<()> {
        self.0.clear(slot, queue).map_err(|e| io_error(&e))
    }
}

/// The XDP program's dirty bits, for the workers.
#[derive(Debug)]
struct DirtyBits(Dirty);

impl DirtyMap for DirtyBits {
    fn words(&self, queue: u32) -> &[AtomicU64] {
        self.0.queue(queue)
    }
}

fn io_error(error: &afnet_bpf::Error) -> io::Error {
    error.errno().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

/// An error of the BPF side as a refusal of `what`.
pub fn bpf(what: impl std::fmt::Display, error: &afnet_bpf::Error) -> Refused {
    let errno = match error {
        afnet_bpf::Error::Full { .. } => Errno::NOSPC,
        _ => error.errno().map_or(Errno::IO, Errno::from_raw_os_error),
    };
    Refused::new(errno, format!("{what}: {error}"))
}

/// An error of the dataplane as a refusal of `what`.
pub fn dataplane_error(what: impl std::fmt::Display, error: &afnet_dataplane::Error) -> Refused {
    use afnet_dataplane::Error;
    let errno = match error {
        Error::Exists(_) => Errno::EXIST,
        Error::Config(_) => Errno::INVAL,
        Error::Unknown { .. } => Errno::NOENT,
        Error::Worker(_) => Errno::TIMEDOUT,
        _ => error.errno().map_or(Errno::IO, Errno::from_raw_os_error),
    };
    Refused::new(errno, format!("{what}: {error}"))
}
