//! AF_XDP sockets on the queues of a device, one for each, and the mode that the kernel agreed to.
//!
//! | wanted | tried in this order |
//! |---|---|
//! | `best` | zero-copy, copy with the program in the driver, generic |
//! | `zero-copy`, `copy`, `generic` | only that |
//!
//! `copy`: the driver runs the program, the kernel copies each frame. `generic`: every frame is an skb first, in any
//! driver. Sockets that only send need a program for zero-copy alone (some drivers insist).
//!
//! Needs CAP_NET_RAW, CAP_NET_ADMIN, CAP_BPF. Binding itself is `afnet_dataplane::xsk`.

use std::{
    fmt,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use afnet_dataplane::{
    ModePreference, QueueMode,
    xsk::{Anchor, BindRequest, bind_anchor},
};
use libbpf_rs::{
    MapCore as _, MapFlags, MapHandle, OpenObject,
    skel::{OpenSkel as _, SkelBuilder as _},
};

use self::skeleton::PktgenSkelBuilder;
use super::{
    device::{Device, Facts},
    error::{Error, Result},
};
use crate::xdp::{self, Attach};

#[allow(
    clippy::all,
    clippy::pedantic,
    missing_docs,
    missing_debug_implementations,
    clippy::undocumented_unsafe_blocks,
    clippy::ptr_as_ptr,
    clippy::allow_attributes_without_reason,
    clippy::cast_possible_truncation,
    reason = "generated"
)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/pktgen.skel.rs"));
}

/// Frames longer than a page's worth take several of these.
const FRAME_SIZE: u32 = 4096;
/// Where frames of two kilobytes suffice, twice as many fit into the caches.
const SMALL_FRAME: u32 = 2048;
/// What a frame of the UMEM keeps free for itself.
const FRAME_OVERHEAD: usize = 256 + 8;

/// How AF_XDP is to work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// The best that the kernel agrees to
    #[default]
    Best,
    /// The device reads and writes our memory
    ZeroCopy,
    /// The driver runs the program, the kernel copies
    Copy,
    /// Every frame is an skb first; any driver
    Generic,
}

/// Which frames a receiver takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// Those with a stamp.
    Stamped,
    /// All.
    Everything,
}

/// What is wanted of a device.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// One socket on each.
    pub queues: Vec<u32>,
    /// How.
    pub mode: Mode,
    /// Which frames to receive, if any.
    pub take: Option<Take>,
    /// Longest frame.
    pub longest: usize,
    /// Entries of each ring; power of two.
    pub ring: u32,
}

/// The sockets of a device, in the order of the queues, and what keeps frames coming.
#[derive(Debug)]
pub struct Opened {
    /// One for each queue.
    pub anchors: Vec<Anchor>,
    /// How they work.
    pub report: Report,
    /// The receiving program, while it is attached.
    pub program: Option<OwnedFd>,
}

/// The mode in use, and why no better one.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Its name.
    pub mode: &'static str,
    /// Better ones, and what the kernel answered.
    pub refused: Vec<(String, String)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.mode)?;
        for (i, (mode, why)) in self.refused.iter().enumerate() {
            write!(f, "{}{mode}: {why}", if i == 0 { " (" } else { ", " })?;
        }
        f.write_str(if self.refused.is_empty() { "" } else { ")" })
    }
}

/// Opens sockets on a device. Call in its namespace.
///
/// # Errors
/// If the kernel refuses every mode, or a program is attached already that is in the way.
pub fn open(device: &Device, facts: &Facts, wanted: &Wanted) -> Result<Opened> {
    let mut refused = Vec::new();
    let receiver = match wanted.take {
        Some(take) => Some(Receiver::attach(device, facts, wanted, take, &mut refused)?),
        // For drivers whose zero-copy mode wants one. In vain is no harm.
        None if matches!(wanted.mode, Mode::Best | Mode::ZeroCopy) => {
            Receiver::load(wanted.mode, Take::Stamped).and_then(|r| r.with(facts, Attach::Native)).ok()
        }
        None => None,
    };
    let generic = receiver.as_ref().is_some_and(|receiver| receiver.how == Attach::Generic);
    let want = match wanted.mode {
        Mode::ZeroCopy => ModePreference::ZeroCopy,
        Mode::Best if !generic => ModePreference::Best,
        _ => ModePreference::Copy,
    };
    let longest = wanted.longest.max(64);
    let frame_size = if longest + FRAME_OVERHEAD <= SMALL_FRAME as usize { SMALL_FRAME } else { FRAME_SIZE };
    let (mut anchors, mut zero_copy) = (Vec::new(), true);
    for queue in &wanted.queues {
        let bound = bind_anchor(&BindRequest {
            name: &device.name,
            queue: *queue,
            mtu: u32::try_from(longest - 14).unwrap_or(u32::MAX),
            want,
            frame_size,
            frames: wanted.ring * 2,
            ring: wanted.ring,
            busy_poll: false,
        })?;
        zero_copy &= bound.mode == QueueMode::ZeroCopy;
        if anchors.is_empty() {
            refused.extend(bound.refused.into_iter().map(|(mode, why)| (mode.to_owned(), why)));
        }
        if let Some(receiver) = &receiver {
            receiver.add(*queue, &bound.anchor)?;
        }
        anchors.push(bound.anchor);
    }
    let mode = match (zero_copy, &receiver) {
        (true, _) => "zero-copy",
        (_, Some(_)) if generic => "generic",
        (_, Some(_)) if wanted.take.is_some() => "copy",
        _ => "copy (sending only)",
    };
    // Who only sends, and copies, needs no program.
    let program = receiver.filter(|_| wanted.take.is_some() || zero_copy).map(|receiver| receiver.link);
    Ok(Opened { anchors, report: Report { mode, refused }, program })
}

/// The receiving program, attached.
struct Receiver {
    link: OwnedFd,
    sockets: MapHandle,
    how: Attach,
}

/// The receiving program, not yet attached.
struct Loaded {
    program: OwnedFd,
    sockets: MapHandle,
}

impl Receiver {
    fn attach(
        device: &Device,
        facts: &Facts,
        wanted: &Wanted,
        take: Take,
        refused: &mut Vec<(String, String)>,
    ) -> Result<Self> {
        let loaded = Self::load(wanted.mode, take)?;
        let ways: &[Attach] = match wanted.mode {
            Mode::Best => &[Attach::Native, Attach::Generic],
            Mode::ZeroCopy | Mode::Copy => &[Attach::Native],
            Mode::Generic => &[Attach::Generic],
        };
        for how in ways {
            match loaded.attach(facts, *how) {
                Ok(link) => return Ok(Self { link, sockets: loaded.sockets, how: *how }),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    return Err(Error::Usage(format!(
                        "another XDP program is attached to {device}: it would have to go first, \
                         `ip link show {}` shows it",
                        device.name
                    )));
                }
                Err(error) => refused.push(("program in the driver".into(), error.to_string())),
            }
        }
        let why: Vec<String> = refused.iter().map(|(mode, why)| format!("{mode}: {why}")).collect();
        Err(Error::Usage(format!("no XDP on {device}: {}", why.join("; "))))
    }

    fn load(mode: Mode, take: Take) -> Result<Loaded> {
        let doing = || Error::bpf(format!("load pktgen's BPF program for {mode:?}"));
        let mut place = MaybeUninit::<OpenObject>::uninit();
        let mut open = PktgenSkelBuilder::default().open(&mut place).map_err(doing())?;
        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            rodata.everything = (take == Take::Everything).into();
        }
        let loaded = open.load().map_err(doing())?;
        let program = loaded.progs.receive.as_fd().try_clone_to_owned();
        let sockets = MapHandle::try_from(&loaded.maps.sockets).map_err(doing())?;
        Ok(Loaded { program: program.map_err(Error::io("duplicate a descriptor"))?, sockets })
    }

    /// Frames of a queue go to this socket.
    fn add(&self, queue: u32, anchor: &Anchor) -> Result<()> {
        self.sockets
            .update(&queue.to_ne_bytes(), &anchor.fd().as_raw_fd().to_ne_bytes(), MapFlags::ANY)
            .map_err(Error::bpf(format!("enter the socket of queue {queue} (at most 63)")))
    }
}

impl Loaded {
    fn attach(&self, facts: &Facts, how: Attach) -> std::io::Result<OwnedFd> {
        xdp::attach(self.program.as_fd(), facts.ifindex, how)
    }

    fn with(self, facts: &Facts, how: Attach) -> Result<Receiver> {
        let link = self.attach(facts, how).map_err(Error::io("attach an XDP program"))?;
        Ok(Receiver { link, sockets: self.sockets, how })
    }
}
