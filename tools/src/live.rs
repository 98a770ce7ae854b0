//! The generator: BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES into the XDP program that is *attached* to a
//! device. The kernel makes frames from a template and treats each as if the device had received it: verdicts
//! are carried out, so redirected frames reach AF_XDP sockets and passed ones the stack. There is no faster
//! source on one machine, and every subject of a comparison gets the same one.
//!
//! ```text
//! test run -> spread (bpf/load.bpf.c: the next destination address) -> tail call -> the attached program
//! ```
//!
//! The frames are made and processed on the calling thread's CPU. Needs CAP_SYS_ADMIN and the device's network
//! namespace.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use afnet_tests::{netns::Netns, packet};
use anyhow::{Context as _, Result, ensure};
use libbpf_rs::{
    Link, MapCore as _, MapFlags, OpenObject,
    libbpf_sys::{self, bpf_test_run_opts},
    skel::{OpenSkel as _, SkelBuilder as _},
};

use self::skeleton::{LoadSkel, LoadSkelBuilder};

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
    include!(concat!(env!("OUT_DIR"), "/load.skel.rs"));
}

/// BPF_F_TEST_XDP_LIVE_FRAMES of linux/bpf.h.
const LIVE_FRAMES: u32 = 1 << 1;
/// Frames that the kernel makes before it flushes redirects: the budget of a NAPI poll, as a driver would.
const BATCH: u32 = 64;
/// Frames of one system call: few enough to stop in time (about 3 ms), enough to drown the call's fixed 16 us.
const CALL: u32 = 16 * 1024;
/// Index of `lo` in every network namespace.
const LOOPBACK: i32 = 1;
/// Bytes of Ethernet, IPv4 and UDP headers in the template.
const HEADERS: usize = 14 + 20 + 8;

/// Verdict of the program that is attached where the subject has none of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forget the frame.
    Drop,
    /// Hand it to the kernel's stack.
    Pass,
}

/// What frames look like: UDP over IPv4, untagged.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// Ethernet source and destination.
    pub macs: (packet::Mac, packet::Mac),
    /// First destination address.
    pub destination: std::net::Ipv4Addr,
    /// Destination port.
    pub port: u16,
    /// Number of consecutive destination addresses, taken in turn; they differ in the lower 16 bits only.
    pub addresses: u32,
    /// Bytes of each frame, without the checksum that a real wire adds.
    pub size: usize,
}

/// What a run has done.
#[derive(Clone, Copy, Debug)]
pub struct Offered {
    /// Frames given to the program.
    pub frames: u64,
    /// For how long.
    pub time: Duration,
}

/// A source of frames on one device.
pub struct Generator {
    ifindex: u32,
    skeleton: LoadSkel<'static>,
    spread: OwnedFd,
    /// Of the program under test, if it is ours, and of the generator.
    _links: (Option<Link>, OwnedFd),
    _anchor: Netns,
}

impl std::fmt::Debug for Generator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generator").field("ifindex", &self.ifindex).finish_non_exhaustive()
    }
}

impl Generator {
    /// Feeds the XDP program that is attached to `device` of `ns`, or a new one that gives every frame the
    /// verdict `otherwise`. Call in that namespace.
    ///
    /// # Errors
    /// If the kernel refuses to load a program or to open the attached one.
    pub fn new(ns: &Netns, device: &str, otherwise: Verdict) -> Result<Self> {
        let ifindex = ns.ifindex(device);
        // One for each subject of a run; a skeleton that moves needs a place that does not.
        let place = Box::leak(Box::new(MaybeUninit::<OpenObject>::uninit()));
        let skeleton = LoadSkelBuilder::default().open(place)?.load().context("load the generator")?;
        let (target, attached) = match attached_program(ns, device) {
            Some(id) => (program_by_id(id)?, None),
            None => {
                let program = match otherwise {
                    Verdict::Drop => &skeleton.progs.drop,
                    Verdict::Pass => &skeleton.progs.pass,
                };
                let link = program.attach_xdp(i32::try_from(ifindex)?).context("attach an XDP program")?;
                (program.as_fd().try_clone_to_owned()?, Some(link))
            }
        };
        let fd = target.as_raw_fd().to_ne_bytes();
        let entry = |map: &libbpf_rs::MapMut<'_>| map.update(&[0; 4], &fd, MapFlags::ANY);
        let spread = if entry(&skeleton.maps.target).is_ok() {
            &skeleton.progs.spread
        } else {
            entry(&skeleton.maps.target_frags).context("put the attached program into a program array")?;
            &skeleton.progs.spread_frags
        };
        // The kernel has a fast way into attached programs. One that is not gets into it for each test run and
        // out again, and each time waits 20 ms for all CPUs: so it is attached, to a loopback device of its own.
        let anchor = Netns::new("anchor");
        let spread = spread.as_fd().try_clone_to_owned()?;
        let anchored = anchor.enter(|| attach(&spread, LOOPBACK)).context("attach the generator")?;
        Ok(Self { ifindex, skeleton, spread, _links: (attached, anchored), _anchor: anchor })
    }

    /// Offers frames for `time`.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn run(&mut self, template: &Template, time: Duration) -> Result<Offered> {
        let frame = self.prepare(template)?;
        let start = Instant::now();
        let mut frames = 0;
        while start.elapsed() < time {
            self.call(&frame, CALL)?;
            frames += u64::from(CALL);
        }
        Ok(Offered { frames, time: start.elapsed() })
    }

    /// Offers exactly `count` frames.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn send(&mut self, template: &Template, count: u32) -> Result<()> {
        let frame = self.prepare(template)?;
        self.call(&frame, count)
    }

    /// Builds the frame and tells the program about the sums and addresses.
    fn prepare(&mut self, template: &Template) -> Result<Vec<u8>> {
        let Template { macs, destination, port, addresses, size } = *template;
        let payload = size.checked_sub(HEADERS).context("a frame shorter than its headers")?;
        let first = u32::from(destination) & 0xffff;
        ensure!(first + addresses <= 1 << 16, "{addresses} addresses from {destination} on cross a /16");
        let source = (packet_source(destination), 7);
        let mut frame = packet::udp(macs, source.into(), (destination, port).into(), &vec![0; payload]);
        let word = |at: usize| u32::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
        // The complement of a checksum is the sum it was made from; take the destination's low half out.
        let without = |sum: u32| fold((!sum & 0xffff) + (!first & 0xffff));
        let bss = self.skeleton.maps.bss_data.as_deref_mut().context("the generator has no variables")?;
        (bss.addresses, bss.first, bss.next) = (addresses, first, 0);
        (bss.ip_sum, bss.udp_sum) = (without(word(24)), without(word(40)));
        // Low half of the destination: the program puts it in.
        frame[32..34].fill(0);
        for (word, bytes) in bss.template.iter_mut().zip(frame[..HEADERS].chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(whole);
        }
        Ok(frame)
    }

    fn call(&self, frame: &[u8], count: u32) -> Result<()> {
        let len = u32::try_from(frame.len())?;
        let context =
            libbpf_sys::xdp_md { data_end: len, ingress_ifindex: self.ifindex, ..Default::default() };
        let mut options = bpf_test_run_opts {
            sz: size_of::<bpf_test_run_opts>() as u64,
            data_in: frame.as_ptr().cast(),
            data_size_in: len,
            ctx_in: (&raw const context).cast(),
            ctx_size_in: u32::try_from(size_of_val(&context))?,
            repeat: i32::try_from(count)?,
            flags: LIVE_FRAMES,
            batch_size: BATCH.min(count),
            ..Default::default()
        };
        // SAFETY: `options` names `frame` and `context`, which live through the call, and asks for no output.
        let result = unsafe { libbpf_sys::bpf_prog_test_run_opts(self.spread.as_raw_fd(), &raw mut options) };
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result))
                .context("run the attached program on live frames");
        }
        Ok(())
    }
}

/// Id of the XDP program that `ip link` shows for a device.
fn attached_program(ns: &Netns, device: &str) -> Option<u32> {
    let links: serde_json::Value =
        serde_json::from_str(&ns.ip(&format!("-j link show dev {device}"))).ok()?;
    u32::try_from(links[0]["xdp"]["prog"]["id"].as_u64()?).ok()
}

fn program_by_id(id: u32) -> Result<OwnedFd> {
    // SAFETY: a plain number.
    owned(unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) }).with_context(|| format!("open BPF program {id}"))
}

/// Attaches an XDP program to an interface of the calling thread's namespace, until the descriptor is closed.
fn attach(program: &OwnedFd, ifindex: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers, no options.
    owned(unsafe {
        libbpf_sys::bpf_link_create(program.as_raw_fd(), ifindex, libbpf_sys::BPF_XDP, std::ptr::null())
    })
}

/// A descriptor that libbpf returned, or its error.
fn owned(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Some source in the destination's /16.
fn packet_source(destination: std::net::Ipv4Addr) -> std::net::Ipv4Addr {
    let [a, b, ..] = destination.octets();
    std::net::Ipv4Addr::new(a, b, 255, 1)
}

fn fold(sum: u32) -> u32 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16)
}
