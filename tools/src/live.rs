//! The generator: BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES into the XDP program that is *attached* to a
//! device. The kernel makes frames from a template and treats each as if the device had received it: verdicts
//! are carried out, so redirected frames reach AF_XDP sockets and passed ones the stack. There is no faster
//! source on one machine, and every subject of a comparison gets the same one.
//!
//! ```text
//! test run -> spread (bpf/load.bpf.c: the next frame of a Pattern) -> tail call -> the attached program
//! ```
//!
//! The kernel uses its pages again, with what the program under test has written into them. `spread` writes the head of
//! each frame anew; behind the head (zeroes) a program's changes stay for the rest of a call.
//!
//! The frames are made and processed on the calling thread's CPU. Needs CAP_SYS_ADMIN and the device's network
//! namespace. Linux 5.18 or later.

use std::{
    fs::File,
    io,
    mem::MaybeUninit,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use afnet_tests::{netns::Netns, packet};
use libbpf_rs::{
    MapCore as _, MapFlags, OpenObject,
    libbpf_sys::{self, bpf_test_run_opts},
    skel::{OpenSkel as _, SkelBuilder as _},
};

use self::skeleton::{LoadSkel, LoadSkelBuilder};
use crate::{
    pattern::{self, Field, Layout, Pattern, Walk, flag},
    stamp,
    xdp::{self, Attach},
};

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
pub const CALL: u32 = 16 * 1024;
/// Index of `lo` in every network namespace.
const LOOPBACK: u32 = 1;

/// Why the generator cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libbpf, in the step that is named.
    #[error("{what}: {source}")]
    Bpf {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        source: libbpf_rs::Error,
    },
    /// The kernel, in the step that is named.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// The kernel makes live frames of one page only.
    #[error(
        "live frames of {0} bytes: the kernel makes them of one page, about 3400 bytes at most; use AF_XDP"
    )]
    TooLong(usize),
    /// The frame itself.
    #[error(transparent)]
    Pattern(#[from] pattern::Error),
    /// Destinations of a [`Template`].
    #[error("{0} addresses from {1} on cross a /16")]
    Addresses(u32, Ipv4Addr),
}

impl Error {
    /// Adds what was tried to a kernel's answer.
    fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    fn bpf(what: &'static str) -> impl FnOnce(libbpf_rs::Error) -> Self {
        move |source| Self::Bpf { what, source }
    }
}

/// Verdict of the program that is attached where the subject has none of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forget the frame.
    Drop,
    /// Hand it to the kernel's stack.
    Pass,
}

/// Where the bench's frames come from.
pub const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 77, 255, 1);

/// What the bench's frames look like: UDP over IPv4, untagged.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// Ethernet source and destination.
    pub macs: (packet::Mac, packet::Mac),
    /// First destination address.
    pub destination: Ipv4Addr,
    /// Destination port.
    pub port: u16,
    /// Number of consecutive destination addresses, taken in turn; they differ in the lower 16 bits only.
    pub addresses: u32,
    /// Bytes of each frame, without the checksum that a real wire adds.
    pub size: usize,
}

impl Template {
    /// Bytes of Ethernet, IPv4 and UDP headers.
    const HEADERS: usize = 14 + 20 + 8;

    /// As a pattern without stamp.
    ///
    /// # Errors
    /// If the size is below that of the headers, or the addresses leave their /16.
    pub fn pattern(&self) -> Result<Pattern, Error> {
        let Self { macs, destination, port, addresses, size } = *self;
        if (u32::from(destination) & 0xffff) + addresses > 1 << 16 {
            return Err(Error::Addresses(addresses, destination));
        }
        let payload =
            size.checked_sub(Self::HEADERS).ok_or(pattern::Error::Short { size, needed: Self::HEADERS })?;
        let source = (SOURCE, 7);
        let frame = packet::udp(macs, source.into(), (destination, port).into(), &vec![0; payload]);
        let field = Field {
            at: 30,
            flags: flag::WIDE | flag::IP | flag::L4,
            first: destination.into(),
            count: addresses,
            mask: u32::MAX,
            fixed: 0,
        };
        let layout = Layout { net: Some((14, false)), transport: Some((34, 17, 40)), stamp: None };
        Ok(Pattern::new(frame, Self::HEADERS, vec![field], layout)?)
    }
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
    _links: (Option<OwnedFd>, OwnedFd),
    /// Keeps the namespace of the generator's loopback device.
    _anchor: File,
}

impl std::fmt::Debug for Generator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generator").field("ifindex", &self.ifindex).finish_non_exhaustive()
    }
}

impl Generator {
    /// As [`Self::open`], for a device of a test bed. Call in its namespace.
    ///
    /// # Errors
    /// As there.
    pub fn new(ns: &Netns, device: &str, otherwise: Verdict) -> Result<Self, Error> {
        Self::open(ns.ifindex(device), otherwise)
    }

    /// Feeds the XDP program that is attached to an interface of the calling thread's namespace, or a new one that
    /// gives every frame the verdict `otherwise`.
    ///
    /// # Errors
    /// If the kernel refuses to load a program or to open the attached one.
    pub fn open(ifindex: u32, otherwise: Verdict) -> Result<Self, Error> {
        // One for each subject of a run; a skeleton that moves needs a place that does not.
        let place = Box::leak(Box::new(MaybeUninit::<OpenObject>::uninit()));
        let skeleton = LoadSkelBuilder::default()
            .open(place)
            .and_then(|open| open.load())
            .map_err(Error::bpf("load the generator's BPF programs"))?;
        let (target, attached) = match xdp::attached(ifindex).map_err(Error::io("look for an XDP program"))? {
            Some(id) => (xdp::program_by_id(id).map_err(Error::io("open the attached program"))?, None),
            None => {
                let program = match otherwise {
                    Verdict::Drop => &skeleton.progs.drop,
                    Verdict::Pass => &skeleton.progs.pass,
                };
                let link = xdp::attach(program.as_fd(), ifindex, Attach::Any)
                    .map_err(Error::io("attach an XDP program"))?;
                let program = program.as_fd().try_clone_to_owned();
                (program.map_err(Error::io("duplicate a descriptor"))?, Some(link))
            }
        };
        let fd = target.as_raw_fd().to_ne_bytes();
        let entry = |map: &libbpf_rs::MapMut<'_>| map.update(&[0; 4], &fd, MapFlags::ANY);
        let spread = if entry(&skeleton.maps.target).is_ok() {
            &skeleton.progs.spread
        } else {
            entry(&skeleton.maps.target_frags)
                .map_err(Error::bpf("put the attached program into a program array"))?;
            &skeleton.progs.spread_frags
        };
        let spread = spread.as_fd().try_clone_to_owned().map_err(Error::io("duplicate a descriptor"))?;
        let (anchor, anchored) = anchor(&spread).map_err(Error::io("attach the generator"))?;
        Ok(Self { ifindex, skeleton, spread, _links: (attached, anchored), _anchor: anchor })
    }

    /// Offers frames for `time`.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn run(&mut self, template: &Template, time: Duration) -> Result<Offered, Error> {
        let pattern = template.pattern()?;
        self.begin(&Walk::new(0));
        self.load(&pattern);
        let start = Instant::now();
        let mut frames = 0;
        while start.elapsed() < time {
            self.call(&pattern, CALL)?;
            frames += u64::from(CALL);
        }
        Ok(Offered { frames, time: start.elapsed() })
    }

    /// Offers exactly `count` frames.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn send(&mut self, template: &Template, count: u32) -> Result<(), Error> {
        let pattern = template.pattern()?;
        self.begin(&Walk::new(0));
        self.load(&pattern);
        self.call(&pattern, count)
    }

    /// Where in the flow the next frame is.
    pub fn begin(&mut self, walk: &Walk) {
        let Some(bss) = self.skeleton.maps.bss_data.as_deref_mut() else { return };
        bss.sequence = walk.sequence;
        bss.random_state = walk.random_state();
        bss.fields.iter_mut().zip(walk.positions()).for_each(|(field, next)| field.next = *next);
    }

    /// Puts into `walk` where the flow is now.
    pub fn end(&self, walk: &mut Walk) {
        let Some(bss) = self.skeleton.maps.bss_data.as_deref() else { return };
        // SAFETY: as in `sequence`.
        let bss = unsafe { (&raw const *bss).read_volatile() };
        let mut positions = *walk.positions();
        positions.iter_mut().zip(bss.fields).for_each(|(next, field)| *next = field.next);
        walk.resume(bss.sequence, positions, bss.random_state);
    }

    /// Number of the next frame: how many there were, if the walk began with 0.
    pub fn sequence(&self) -> u64 {
        let bss = self.skeleton.maps.bss_data.as_deref();
        // SAFETY: an aligned word of a live mapping. The program writes it, on this thread's time or on none.
        bss.map_or(0, |bss| unsafe { (&raw const bss.sequence).read_volatile() })
    }

    /// Tells the program what the next frames look like; the walk goes on.
    pub fn load(&mut self, pattern: &Pattern) {
        let Some(bss) = self.skeleton.maps.bss_data.as_deref_mut() else { return };
        let narrow = |at: usize| u32::try_from(at).unwrap_or(0);
        let head = &pattern.frame()[..pattern.head()];
        for (word, bytes) in bss.head.iter_mut().zip(head.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(whole);
        }
        bss.head_bytes = narrow(head.len());
        bss.field_count = narrow(pattern.fields().len());
        for (to, from) in bss.fields.iter_mut().zip(pattern.fields()) {
            (to.at, to.flags, to.first) = (narrow(from.at), from.flags, from.first);
            (to.count, to.mask, to.fixed) = (from.count, from.mask, from.fixed);
        }
        let (ip, l4, udp) = pattern.sums();
        (bss.ip_at, bss.ip_sum) = (narrow(ip.at), ip.base);
        (bss.l4_at, bss.l4_sum, bss.l4_udp) = (narrow(l4.at), l4.base, udp.into());
        let (at, stream) = pattern.stamp().unwrap_or((0, 0));
        (bss.stamp_at, bss.stamp_magic) = (narrow(at), stamp::MAGIC);
        bss.stamp_stream = u64::from(stream) << 48;
    }

    /// Offers `count` frames of the pattern that was loaded last.
    ///
    /// # Errors
    /// If the kernel refuses to run the program. A signal may end the call early; that is no error
    /// ([`Self::sequence`] tells).
    pub fn call(&mut self, pattern: &Pattern, count: u32) -> Result<(), Error> {
        let frame = pattern.frame();
        if let Some(bss) = self.skeleton.maps.bss_data.as_deref_mut() {
            bss.clock_left = 0;
        }
        let narrow = |n: usize| u32::try_from(n).map_err(|_| Error::TooLong(n));
        let len = narrow(frame.len())?;
        let context =
            libbpf_sys::xdp_md { data_end: len, ingress_ifindex: self.ifindex, ..Default::default() };
        let mut options = bpf_test_run_opts {
            sz: size_of::<bpf_test_run_opts>() as u64,
            data_in: frame.as_ptr().cast(),
            data_size_in: len,
            ctx_in: (&raw const context).cast(),
            ctx_size_in: narrow(size_of_val(&context))?,
            repeat: i32::try_from(count).unwrap_or(i32::MAX),
            flags: LIVE_FRAMES,
            batch_size: BATCH.min(count),
            ..Default::default()
        };
        // SAFETY: `options` names `frame` and `context`, which live through the call, and asks for no output.
        let result = unsafe { libbpf_sys::bpf_prog_test_run_opts(self.spread.as_raw_fd(), &raw mut options) };
        match -result {
            0.. if result >= 0 => Ok(()),
            libc::EINTR => Ok(()),
            libc::EINVAL | libc::E2BIG if len > ONE_PAGE => Err(Error::TooLong(frame.len())),
            errno => Err(Error::Io {
                what: "run the attached program on live frames",
                source: io::Error::from_raw_os_error(errno),
            }),
        }
    }
}

/// Frames up to here surely fit into the kernel's page, with its headroom and tailroom.
const ONE_PAGE: u32 = 3072;

/// Attaches the generator to a loopback device of its own: the kernel has a fast way into attached programs. One that
/// is not gets into it for each test run and out again, and each time waits 20 ms for all CPUs.
fn anchor(spread: &OwnedFd) -> io::Result<(File, OwnedFd)> {
    let body = || {
        // SAFETY: this thread alone leaves its namespace, and it ends after this.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?;
        let namespace = File::open("/proc/thread-self/ns/net")?;
        Ok((namespace, xdp::attach(spread.as_fd(), LOOPBACK, Attach::Any)?))
    };
    thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|_| Err(io::Error::other("a thread died")))
}
