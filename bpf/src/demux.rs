//! [`Demux`]: the programs of one device, loaded and attached. The tables are in `tables.rs`.
//!
//! The libbpf object lives only while it is loaded: what stays are file descriptors of the program and the
//! maps. Those end with the `Demux`; the attachment itself is the pinned link (`link.rs`), which does not.

use std::{
    cell::RefCell,
    mem::{MaybeUninit, offset_of},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use libbpf_rs::{
    MapHandle, Program,
    skel::{OpenSkel, SkelBuilder},
};

use crate::{
    AttachMode, Dirty, Error, Events, Memberships, Sockets,
    counters::Counter,
    dirty::Mapping,
    link::{PinnedLink, attach_xdp},
    local,
    map::{Index, Map},
    skel::{types, xdp::XdpSkelBuilder},
    tables::Slots,
    tc::Unpinned,
};

/// Sizes of a device's tables. Memory for entries is taken when they are made, but for the per-slot arrays
/// (about 200 bytes and one word of each CPU's counters for each slot, 8 bytes for each slot and queue).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Compartments, slot 0 (the host's) included.
    pub compartments: u32,
    /// Addresses of each family.
    pub addresses: u32,
    /// Delegated prefixes of each family.
    pub prefixes: u32,
    /// Claimed ports; a block counts once for each aligned power-of-two piece.
    pub claims: u32,
    /// Groups of each family, broadcast addresses among them.
    pub groups: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { compartments: 4096, addresses: 65536, prefixes: 4096, claims: 65536, groups: 16384 }
    }
}

/// What a device's program is loaded for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemuxConfig {
    /// The device.
    pub ifindex: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its receive queues; frames of queues beyond are passed.
    pub queues: u32,
    /// Frames may have several buffers: MTU above what fits into a page.
    pub frags: bool,
    /// Sizes of the tables.
    pub limits: Limits,
}

/// Who owns an address or prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressEntry {
    /// The compartment.
    pub slot: u32,
    /// Being probed: nothing is answered, nothing delivered.
    pub tentative: bool,
    /// The kernel does not have the address: echo requests are answered by the program.
    pub fast_only: bool,
}

/// What a compartment may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompartmentConfig {
    /// Packets per second to the fast path; 0: unlimited.
    pub rate_pps: u32,
    /// Packets that may come at once; 0 with a rate: a tenth of a second's worth.
    pub burst: u32,
    /// A raw endpoint takes everything but ARP, ND, IGMP and MLD.
    pub raw: bool,
}

/// The programs of one device. Owned by the control thread.
#[derive(Debug)]
pub struct Demux {
    config: DemuxConfig,
    program: OwnedFd,
    local_program: OwnedFd,
    speak_program: OwnedFd,
    link: Option<PinnedLink>,
    local: Option<Unpinned>,
    speak: Option<Unpinned>,
    globals: Mapping,
    events: Events,
    memberships: Memberships,
    pub(crate) maps: Maps,
    pub(crate) slots: RefCell<Slots>,
}

/// The maps, in the order of prog/maps.h.
#[derive(Debug)]
pub(crate) struct Maps {
    pub addresses4: Map<types::afnet_key4, types::afnet_address>,
    pub addresses6: Map<types::afnet_key6, types::afnet_address>,
    pub prefixes4: Map<types::afnet_prefix4, types::afnet_address>,
    pub prefixes6: Map<types::afnet_prefix6, types::afnet_address>,
    pub claims: Map<types::afnet_claim, u8>,
    pub groups4: Map<types::afnet_key4, u8>,
    pub groups6: Map<types::afnet_key6, u8>,
    pub compartments: Map<Index, types::afnet_compartment>,
    pub buckets: Map<Index, u64>,
    pub dirty: Map<Index, u64>,
    pub xsks: Map<Index, u32>,
    pub counts: Map<Index, types::afnet_compartment_counters>,
    pub device_counts: Map<Index, types::afnet_device_counters>,
}

impl Demux {
    /// Loads program and maps for a device. Nothing is attached yet.
    pub fn load(config: &DemuxConfig) -> Result<Self, Error> {
        let limits = config.limits;
        if limits.compartments < 2 || config.queues == 0 {
            return Err(Error::Slot(limits.compartments));
        }
        let words = Dirty::words(limits.compartments);
        let sockets =
            limits.compartments.checked_mul(config.queues).ok_or(Error::Slot(limits.compartments))?;

        let mut storage = MaybeUninit::uninit();
        let mut open =
            XdpSkelBuilder::default().open(&mut storage).map_err(Error::bpf("open the BPF object"))?;
        let rodata = open.maps.rodata_data.as_deref_mut().expect("the object has options");
        rodata.queues = config.queues;
        rodata.dirty_words = words;
        rodata.frags = config.frags;
        if config.frags {
            open.progs.afnet_demux.set_flags(libbpf_rs::libbpf_sys::BPF_F_XDP_HAS_FRAGS);
        }
        for (map, entries) in [
            (&mut open.maps.addresses4, limits.addresses),
            (&mut open.maps.addresses6, limits.addresses),
            (&mut open.maps.prefixes4, limits.prefixes),
            (&mut open.maps.prefixes6, limits.prefixes),
            (&mut open.maps.claims, limits.claims),
            (&mut open.maps.groups4, limits.groups),
            (&mut open.maps.groups6, limits.groups),
            (&mut open.maps.compartments, limits.compartments),
            (&mut open.maps.buckets, limits.compartments),
            (&mut open.maps.dirty, words * config.queues),
            (&mut open.maps.xsks, sockets),
            (&mut open.maps.counts, limits.compartments),
        ] {
            map.set_max_entries(entries.max(1)).map_err(Error::bpf("size a map"))?;
        }
        let skel = open.load().map_err(Error::bpf("load the BPF object"))?;

        let maps = &skel.maps;
        let events = MapHandle::try_from(&*maps.events).map_err(Error::bpf("duplicate a file descriptor"))?;
        let memberships =
            MapHandle::try_from(&*maps.memberships).map_err(Error::bpf("duplicate a file descriptor"))?;
        let demux = Self {
            config: config.clone(),
            program: clone_fd(skel.progs.afnet_demux.as_fd())?,
            local_program: clone_fd(skel.progs.afnet_local.as_fd())?,
            speak_program: clone_fd(skel.progs.afnet_speak.as_fd())?,
            link: None,
            local: None,
            speak: None,
            globals: Mapping::new(maps.bss.as_fd(), size_of::<types::bss>())?,
            events: Events::new(events)?,
            memberships: Memberships::new(memberships)?,
            maps: Maps {
                addresses4: Map::new("IPv4 address", &maps.addresses4)?,
                addresses6: Map::new("IPv6 address", &maps.addresses6)?,
                prefixes4: Map::new("IPv4 prefix", &maps.prefixes4)?,
                prefixes6: Map::new("IPv6 prefix", &maps.prefixes6)?,
                claims: Map::new("claim", &maps.claims)?,
                groups4: Map::new("IPv4 group", &maps.groups4)?,
                groups6: Map::new("IPv6 group", &maps.groups6)?,
                compartments: Map::new("compartment", &maps.compartments)?,
                buckets: Map::new("token bucket", &maps.buckets)?,
                dirty: Map::new("dirty", &maps.dirty)?,
                xsks: Map::new("socket", &maps.xsks)?,
                counts: Map::new("compartment counter", &maps.counts)?,
                device_counts: Map::new("device counter", &maps.device_counts)?,
            },
            slots: RefCell::default(),
        };
        demux.set_mac(config.mac);
        Ok(demux)
    }

    /// Attaches the program to the device and pins the link at `pin`, a path in a bpffs. If a link of this
    /// device is pinned there already, its program is replaced without a gap.
    pub fn attach(&mut self, mode: AttachMode, pin: &Path) -> Result<(), Error> {
        self.link = Some(attach_xdp(self.program.as_fd(), self.config.ifindex, mode, pin)?);
        Ok(())
    }

    /// Local delivery goes into the interface `ifindex` from now on; 0 stops it.
    pub fn set_host_link(&self, ifindex: u32) {
        let word: &[AtomicU32] = self.globals.atomics(offset_of!(types::bss, host_ifindex), 1);
        word[0].store(ifindex, Ordering::Relaxed);
    }

    /// Attaches the program for local delivery to the ingress of `lo` in the calling thread's network
    /// namespace. It ends with this value, which must be dropped in that namespace too. Call [`Self::set_host_link`] first.
    pub fn attach_local(&mut self) -> Result<(), Error> {
        let word: &[AtomicU32] = self.globals.atomics(offset_of!(types::bss, host_ifindex), 1);
        if word[0].load(Ordering::Relaxed) == 0 {
            return Err(Error::NoHostLink);
        }
        self.local = Some(local::attach_local(self.local_program.as_fd(), self.config.ifindex)?);
        Ok(())
    }

    /// Takes the reports of memberships that this host's kernel sends out of the device; they come to
    /// [`Self::memberships`] instead. `speaker`: SO_COOKIE of the socket whose reports do leave. The kernel speaks again
    /// when nobody has called [`Self::speak_on`] for a while, with [`Self::give_reports_back`], and when this value ends,
    /// which must be dropped in that network namespace too.
    pub fn take_reports(&mut self, speaker: u64) -> Result<(), Error> {
        self.wide(offset_of!(types::bss, speaker)).store(speaker, Ordering::Relaxed);
        self.speak = Some(local::attach_speak(self.speak_program.as_fd(), self.config.ifindex)?);
        Ok(())
    }

    /// The kernel's reports are taken for this long from now on.
    pub fn speak_on(&self, time: Duration) {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a live structure. The clock is always there.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0));
        let until = u64::try_from((now + time).as_nanos()).unwrap_or(u64::MAX);
        self.wide(offset_of!(types::bss, speaks_until)).store(until, Ordering::Relaxed);
    }

    /// The kernel speaks for itself from now on, whoever has taken its reports: we, or a daemon that was killed.
    pub fn give_reports_back(&mut self) -> Result<(), Error> {
        self.wide(offset_of!(types::bss, speaks_until)).store(0, Ordering::Relaxed);
        match self.speak.take() {
            Some(_) => Ok(()),
            None => local::remove_speak(self.speak_program.as_fd(), self.config.ifindex),
        }
    }

    fn wide(&self, offset: usize) -> &AtomicU64 {
        &self.globals.atomics(offset, 1)[0]
    }

    /// Detaches the programs and removes the pin. Without this, dropping the `Demux` leaves the program running
    /// for the next daemon to take over.
    pub fn detach(&mut self) -> Result<(), Error> {
        (self.local, self.speak) = (None, None);
        self.link.take().map_or(Ok(()), PinnedLink::detach)
    }

    /// The XDP program, for test runs.
    pub fn program_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// The kernel's id of the XDP program (`bpftool prog show id`), 0 if it does not tell.
    pub fn program_id(&self) -> u32 {
        Program::id_from_fd(self.program.as_fd()).unwrap_or(0)
    }

    /// The device has another MAC address now.
    pub fn set_mac(&self, mac: [u8; 6]) {
        let [a, b, c, d, e, f] = mac;
        let number = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        self.wide(offset_of!(types::bss, device_mac)).store(number, Ordering::Relaxed);
    }

    /// A handle to the sockets' map for a worker.
    pub fn sockets(&self) -> Result<Sockets, Error> {
        Ok(Sockets::new(self.maps.xsks.try_clone()?, self.config.queues, self.config.limits.compartments))
    }

    /// A mapping of the dirty bits for a worker.
    pub fn dirty(&self) -> Result<Dirty, Error> {
        let words = Dirty::words(self.config.limits.compartments);
        Dirty::new(self.maps.dirty.handle(), self.config.queues, words)
    }

    /// The events of this device.
    pub fn events(&mut self) -> &mut Events {
        &mut self.events
    }

    /// Packets of IGMP and MLD that came to this device.
    pub fn memberships(&mut self) -> &mut Memberships {
        &mut self.memberships
    }

    /// All counters of the device, summed over CPUs and compartments, those of removed compartments included.
    pub fn counters(&self) -> Result<Vec<u64>, Error> {
        let slots = self.slots.borrow();
        let mut sum = slots.retired.clone();
        sum.resize(Counter::COUNT, 0);
        for slot in slots.used.keys() {
            add(&mut sum, &self.compartment_counters(*slot)?);
        }
        for cpu in self.maps.device_counts.get_percpu(&0)? {
            add(&mut sum[Counter::BY_COMPARTMENT..], &cpu.count);
        }
        Ok(sum)
    }

    /// The counters of the compartment in `slot`, summed over CPUs: the first [`Counter::BY_COMPARTMENT`].
    pub fn compartment_counters(&self, slot: u32) -> Result<Vec<u64>, Error> {
        let mut sum = vec![0; Counter::BY_COMPARTMENT];
        for cpu in self.maps.counts.get_percpu(&slot)? {
            add(&mut sum, &cpu.count);
        }
        Ok(sum)
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.config.limits
    }

    pub(crate) fn globals(&self) -> &Mapping {
        &self.globals
    }
}

pub(crate) fn add(sum: &mut [u64], values: &[u64]) {
    for (s, v) in sum.iter_mut().zip(values) {
        *s += v;
    }
}

fn clone_fd(fd: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    fd.try_clone_to_owned().map_err(|source| Error::Io { what: "duplicate a file descriptor", source })
}
