//! [`Confinement`]: the programs of the kernel path (`prog/confine.bpf.c`), loaded, attached and told who owns what.
//!
//! | kept in the directory of pins | why |
//! |---|---|
//! | a link for each hook | sockets stay confined while the daemon is away; the next one replaces the programs |
//! | maps `sockets`, `ports`, `hearers`, `listening`, `counted`, `quota` | what the programs know of sockets, which outlive the daemon |
//! | an empty directory for each clsact qdisc that was made (kernels without TCX) | they go with the programs |
//!
//! Everything else is told anew by each daemon, before it attaches. Owned by the control thread. Loading and attaching
//! need CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON.

use std::{
    collections::BTreeMap,
    fs, io,
    mem::{MaybeUninit, offset_of},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        linux::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use libbpf_rs::{
    libbpf_sys,
    skel::{OpenSkel, SkelBuilder},
};

use crate::{
    Error,
    counters::Refusal,
    dirty::Mapping,
    joined::{self, Joined},
    link::{PinnedLink, Target, create_link},
    map::{Index, Map},
    releases::{Registered, Releases},
    skel::{
        c,
        confine::ConfineSkelBuilder,
        confine_types::{
            self as types, afnet_confined, afnet_fast_group, afnet_ip, afnet_owner_prefix, afnet_port_key,
            afnet_quota, afnet_refusals, afnet_replicated, afnet_socket, afnet_source, afnet_sources,
        },
    },
    tc::{self, Direction, Place, TcHook},
};

/// Priority of filters: after that of local delivery.
const PRIORITY: u32 = 2;
/// The loopback device of every network namespace.
const LO: u32 = 1;

/// What the programs are loaded for.
#[derive(Clone, Debug)]
pub struct ConfinementConfig {
    /// Cookie of the network namespace (SO_NETNS_COOKIE).
    pub netns_cookie: u64,
    /// Compartments, slot 0 included.
    pub compartments: u32,
    /// Addresses of all compartments, both families.
    pub addresses: u32,
    /// Delegated prefixes, both families.
    pub prefixes: u32,
    /// Directory in a bpffs for pins.
    pub pins: PathBuf,
    /// Tells the filters of several daemons in a namespace apart, on kernels without TCX.
    pub handle: u32,
}

/// An address that packets of a compartment may have as source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The address.
    pub addr: IpAddr,
    /// Its on-link prefix.
    pub prefix_len: u8,
    /// Its device.
    pub ifindex: u32,
}

/// A compartment, for the kernel path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confined {
    /// Id of its cgroup (the directory's inode number); 0: there is none.
    pub cgroup: u64,
    /// No traffic with other compartments and the host.
    pub isolated: bool,
    /// Any kind of socket; its packets are still checked.
    pub raw_sockets: bool,
    /// Anybody may bind privileged ports.
    pub unprivileged_ports: bool,
    /// Most sockets that its processes may have made; 0: any number.
    pub sockets: u32,
    /// Its addresses, best first: the first of each family serves sockets that ask for all.
    pub sources: Vec<Source>,
}

/// The loaded programs and their maps.
#[derive(Debug)]
pub struct Confinement {
    config: ConfinementConfig,
    programs: Vec<(Hook, OwnedFd)>,
    links: Vec<PinnedLink>,
    /// Hooks of devices, by interface index.
    devices: BTreeMap<u32, Vec<TcHook>>,
    globals: Mapping,
    /// Entries of `cgroups`, by slot.
    cgroups: BTreeMap<u32, u64>,
    /// Primary IPv4 address, by slot.
    primaries: BTreeMap<u32, IpAddr>,
    prefixes: u32,
    maps: Maps,
    releases: Releases,
    /// Asked, not attached.
    membership: OwnedFd,
}

#[derive(Debug)]
struct Maps {
    cgroups: Map<u64, Index>,
    owners: Map<afnet_ip, Index>,
    owner_prefixes: Map<afnet_owner_prefix, Index>,
    confined: Map<Index, afnet_confined>,
    sources: Map<Index, afnet_sources>,
    refusals: Map<Index, afnet_refusals>,
    devices: Map<Index, u8>,
    sockets: Map<u32, afnet_socket>,
    claimed: Map<u32, u64>,
    replicated: Map<afnet_replicated, u8>,
    fast_groups: Map<afnet_fast_group, u8>,
    quota: Map<u64, afnet_quota>,
}

/// Where a program belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    /// The instance's cgroup, with the attach type.
    Cgroup(&'static str, u32),
    /// The root of all cgroups.
    Root(&'static str, u32),
    Lookup,
    Ingress,
    Egress,
}

/// IP protocol number.
const UDP: u8 = 17;

/// An address as the programs have it: IPv4 as ::ffff:a.b.c.d.
fn ip(addr: IpAddr) -> afnet_ip {
    let octets = match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    };
    let words = octets.as_chunks().0;
    afnet_ip { word: std::array::from_fn(|i| u32::from_ne_bytes(words[i])) }
}

/// Bits of a prefix, counted in an [`afnet_ip`].
fn bits(addr: IpAddr, len: u8) -> u32 {
    u32::from(len) + if addr.is_ipv4() { 96 } else { 0 }
}

/// The device of all of them; 0: they are of several, or there are none.
fn device(sources: &[Source]) -> u32 {
    let mut indices = sources.iter().map(|s| s.ifindex);
    let first = indices.next().unwrap_or(0);
    if indices.all(|ifindex| ifindex == first) { first } else { 0 }
}

/// The broadcast address of a source's subnet, as the kernel has it; 0: there is none.
fn broadcast(source: &Source) -> u32 {
    match source.addr {
        IpAddr::V4(addr) if source.prefix_len <= 30 => {
            (addr.to_bits() | u32::MAX.unbounded_shr(source.prefix_len.into())).to_be()
        }
        _ => 0,
    }
}

impl Confinement {
    /// Loads programs and maps; maps that a daemon before has pinned are taken over. Nothing is attached yet.
    pub fn load(config: &ConfinementConfig) -> Result<Self, Error> {
        let mut storage = MaybeUninit::uninit();
        let mut open = ConfineSkelBuilder::default()
            .open(&mut storage)
            .map_err(Error::bpf("open the kernel path's object"))?;
        let rodata = open.maps.rodata_data.as_deref_mut().expect("the object has options");
        rodata.netns_cookie = config.netns_cookie;
        rodata.slots = config.compartments;
        for (map, entries) in [
            (&mut open.maps.cgroups, config.compartments),
            (&mut open.maps.owners, config.addresses),
            (&mut open.maps.owner_prefixes, config.prefixes),
            (&mut open.maps.confined, config.compartments),
            (&mut open.maps.sources, config.compartments),
            (&mut open.maps.refusals, config.compartments),
        ] {
            map.set_max_entries(entries.max(1)).map_err(Error::bpf("size a map"))?;
        }
        let kept = [
            &mut open.maps.sockets,
            &mut open.maps.ports,
            &mut open.maps.hearers,
            &mut open.maps.listening,
            &mut open.maps.counted,
            &mut open.maps.quota,
        ];
        fs::create_dir_all(&config.pins)
            .map_err(|source| Error::Io { what: "create the pins' directory", source })?;
        let mut inherited = false;
        for map in kept {
            let pin = config.pins.join(format!("map-{}", map.name().to_string_lossy()));
            // What is pinned there already is taken over.
            inherited |= pin.exists();
            map.set_pin_path(&pin).map_err(Error::bpf("name a map's pin"))?;
        }
        let skel = open.load().map_err(Error::bpf("load the kernel path's object"))?;

        let maps = &skel.maps;
        let mut this = Self {
            config: config.clone(),
            programs: Vec::new(),
            links: Vec::new(),
            devices: BTreeMap::new(),
            globals: Mapping::new(maps.bss.as_fd(), size_of::<types::bss>())?,
            cgroups: BTreeMap::new(),
            primaries: BTreeMap::new(),
            prefixes: 0,
            maps: Maps {
                cgroups: Map::new("cgroup", &maps.cgroups)?,
                owners: Map::new("owner", &maps.owners)?,
                owner_prefixes: Map::new("owner of prefixes", &maps.owner_prefixes)?,
                confined: Map::new("compartment", &maps.confined)?,
                sources: Map::new("source", &maps.sources)?,
                refusals: Map::new("refusal counter", &maps.refusals)?,
                devices: Map::new("device", &maps.devices)?,
                sockets: Map::new("socket", &maps.sockets)?,
                claimed: Map::new("claimed socket", &maps.claimed)?,
                replicated: Map::new("group of a socket", &maps.replicated)?,
                fast_groups: Map::new("group of endpoints", &maps.fast_groups)?,
                quota: Map::new("socket count", &maps.quota)?,
            },
            releases: Releases::new(&maps.releases)?,
            membership: skel
                .progs
                .afnet_membership
                .as_fd()
                .try_clone_to_owned()
                .map_err(|source| Error::Io { what: "duplicate a file descriptor", source })?,
        };
        // Before the others: those that enter sockets into the register; last those that believe it.
        let p = &skel.progs;
        for (hook, program) in [
            (Hook::Cgroup("socket", libbpf_sys::BPF_CGROUP_INET_SOCK_CREATE), p.afnet_socket.as_fd()),
            (Hook::Cgroup("close", libbpf_sys::BPF_CGROUP_INET_SOCK_RELEASE), p.afnet_close.as_fd()),
            (Hook::Cgroup("bind4", libbpf_sys::BPF_CGROUP_INET4_BIND), p.afnet_bind4.as_fd()),
            (Hook::Cgroup("bind6", libbpf_sys::BPF_CGROUP_INET6_BIND), p.afnet_bind6.as_fd()),
            (Hook::Cgroup("bound4", libbpf_sys::BPF_CGROUP_INET4_POST_BIND), p.afnet_bound4.as_fd()),
            (Hook::Cgroup("bound6", libbpf_sys::BPF_CGROUP_INET6_POST_BIND), p.afnet_bound6.as_fd()),
            (Hook::Cgroup("set-option", libbpf_sys::BPF_CGROUP_SETSOCKOPT), p.afnet_set_option.as_fd()),
            (Hook::Cgroup("get-option", libbpf_sys::BPF_CGROUP_GETSOCKOPT), p.afnet_get_option.as_fd()),
            (Hook::Cgroup("listen", libbpf_sys::BPF_CGROUP_SOCK_OPS), p.afnet_listen.as_fd()),
            (Hook::Cgroup("connect4", libbpf_sys::BPF_CGROUP_INET4_CONNECT), p.afnet_connect4.as_fd()),
            (Hook::Cgroup("connect6", libbpf_sys::BPF_CGROUP_INET6_CONNECT), p.afnet_connect6.as_fd()),
            (Hook::Cgroup("send4", libbpf_sys::BPF_CGROUP_UDP4_SENDMSG), p.afnet_send4.as_fd()),
            (Hook::Cgroup("send6", libbpf_sys::BPF_CGROUP_UDP6_SENDMSG), p.afnet_send6.as_fd()),
            (Hook::Cgroup("receive4", libbpf_sys::BPF_CGROUP_UDP4_RECVMSG), p.afnet_receive4.as_fd()),
            (Hook::Cgroup("receive6", libbpf_sys::BPF_CGROUP_UDP6_RECVMSG), p.afnet_receive6.as_fd()),
            (Hook::Cgroup("local4", libbpf_sys::BPF_CGROUP_INET4_GETSOCKNAME), p.afnet_local_name4.as_fd()),
            (Hook::Cgroup("local6", libbpf_sys::BPF_CGROUP_INET6_GETSOCKNAME), p.afnet_local_name6.as_fd()),
            (Hook::Cgroup("peer4", libbpf_sys::BPF_CGROUP_INET4_GETPEERNAME), p.afnet_peer_name4.as_fd()),
            (Hook::Cgroup("peer6", libbpf_sys::BPF_CGROUP_INET6_GETPEERNAME), p.afnet_peer_name6.as_fd()),
            (Hook::Cgroup("ingress", libbpf_sys::BPF_CGROUP_INET_INGRESS), p.afnet_ingress.as_fd()),
            (Hook::Cgroup("egress", libbpf_sys::BPF_CGROUP_INET_EGRESS), p.afnet_egress.as_fd()),
            (Hook::Root("close", libbpf_sys::BPF_CGROUP_INET_SOCK_RELEASE), p.afnet_host_close.as_fd()),
            (Hook::Root("bind4", libbpf_sys::BPF_CGROUP_INET4_BIND), p.afnet_host_bind4.as_fd()),
            (Hook::Root("bind6", libbpf_sys::BPF_CGROUP_INET6_BIND), p.afnet_host_bind6.as_fd()),
            (Hook::Root("bound4", libbpf_sys::BPF_CGROUP_INET4_POST_BIND), p.afnet_host_bound4.as_fd()),
            (Hook::Root("bound6", libbpf_sys::BPF_CGROUP_INET6_POST_BIND), p.afnet_host_bound6.as_fd()),
            (Hook::Root("connect4", libbpf_sys::BPF_CGROUP_INET4_CONNECT), p.afnet_host_connect4.as_fd()),
            (Hook::Root("connect6", libbpf_sys::BPF_CGROUP_INET6_CONNECT), p.afnet_host_connect6.as_fd()),
            (Hook::Root("send4", libbpf_sys::BPF_CGROUP_UDP4_SENDMSG), p.afnet_host_send4.as_fd()),
            (Hook::Root("send6", libbpf_sys::BPF_CGROUP_UDP6_SENDMSG), p.afnet_host_send6.as_fd()),
            (Hook::Lookup, p.afnet_lookup.as_fd()),
            (Hook::Ingress, p.afnet_enter.as_fd()),
            (Hook::Egress, p.afnet_ping.as_fd()),
        ] {
            let program = program.try_clone_to_owned();
            let program =
                program.map_err(|source| Error::Io { what: "duplicate a file descriptor", source })?;
            this.programs.push((hook, program));
        }
        // Sockets remember what was good in the life of another daemon.
        // Local delivery wants one there, too, and goes first.
        this.own_qdisc(LO)?;
        let mut random = [0; 4];
        // SAFETY: four writable bytes; whatever they hold is a number.
        unsafe { libc::getrandom(random.as_mut_ptr().cast(), random.len(), 0) };
        this.word(offset_of!(types::bss, off_primary)).store(inherited.into(), Ordering::Relaxed);
        this.word(offset_of!(types::bss, epoch)).store(u32::from_ne_bytes(random), Ordering::Relaxed);
        Ok(this)
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        &self.globals.atomics(offset, 1)[0]
    }

    /// Attaches everything but the hooks of devices. `base`: the instance's cgroup; `root`: that of all cgroups;
    /// `netns`: the network namespace, which must be the calling thread's.
    pub fn attach(&mut self, base: &fs::File, root: &fs::File, netns: &fs::File) -> Result<(), Error> {
        let inode = |file: &fs::File| {
            let metadata = file.metadata();
            metadata.map(|m| m.st_ino()).map_err(|source| Error::Io { what: "look at a cgroup", source })
        };
        let (base_id, root_id) = (inode(base)?, inode(root)?);
        let netns_id = u32::try_from(inode(netns)?).unwrap_or(0);
        for (hook, program) in &self.programs {
            let (name, target, fd, kind) = match *hook {
                Hook::Cgroup(name, kind) => {
                    (format!("cgroup-{name}"), Target::Cgroup(base_id, kind), base.as_raw_fd(), kind)
                }
                Hook::Root(name, kind) => {
                    (format!("host-{name}"), Target::Cgroup(root_id, kind), root.as_raw_fd(), kind)
                }
                Hook::Lookup => {
                    let kind = libbpf_sys::BPF_SK_LOOKUP;
                    ("lookup".to_owned(), Target::Netns(netns_id, kind), netns.as_raw_fd(), kind)
                }
                Hook::Ingress | Hook::Egress => continue,
            };
            let pin = self.config.pins.join(name);
            let create = || create_link(program.as_fd(), fd, kind);
            self.links.push(PinnedLink::attach(program.as_fd(), target, &pin, create)?);
        }
        self.attach_device(LO)
    }

    /// Attaches the hooks of a device: an owned one, or the kernel's end of the host link.
    pub fn attach_device(&mut self, ifindex: u32) -> Result<(), Error> {
        let program = |wanted| {
            let found = self.programs.iter().find(|(hook, _)| *hook == wanted);
            found.map(|(_, fd)| fd.as_fd()).expect("every hook has a program")
        };
        let (ingress, egress): (BorrowedFd<'_>, BorrowedFd<'_>) =
            (program(Hook::Ingress), program(Hook::Egress));
        self.own_qdisc(ifindex)?;
        let mut hooks = Vec::new();
        for (program, direction, name) in
            [(ingress, Direction::Ingress, "in"), (egress, Direction::Egress, "out")]
        {
            let place = Place { ifindex, direction, priority: PRIORITY, handle: self.config.handle };
            let pin = self.config.pins.join(format!("tc-{ifindex}-{name}"));
            hooks.push(TcHook::attach(program, place, Some(&pin))?);
        }
        self.devices.insert(ifindex, hooks);
        self.maps.devices.insert(&ifindex, &1)
    }

    /// Detaches the hooks of a device, which may be gone.
    pub fn detach_device(&mut self, ifindex: u32) -> Result<(), Error> {
        self.maps.devices.remove(&ifindex)?;
        let hooks = self.devices.remove(&ifindex).unwrap_or_default();
        let result = hooks.into_iter().map(TcHook::detach).fold(Ok(()), Result::and);
        if fs::remove_dir(self.qdisc_mark(ifindex)).is_ok() {
            tc::remove_clsact(ifindex)?;
        }
        result
    }

    /// Without TCX a device needs a clsact qdisc. That it is ours is marked beside the pins: a killed daemon's are removed
    /// by the next one.
    fn own_qdisc(&self, ifindex: u32) -> Result<(), Error> {
        let any = self.programs.iter().find(|(hook, _)| *hook == Hook::Ingress).map(|(_, fd)| fd.as_fd());
        if any.is_some_and(tc::has_tcx) || !tc::add_clsact(ifindex)? {
            return Ok(());
        }
        match fs::create_dir(self.qdisc_mark(ifindex)) {
            // The device that a daemon before had marked is gone, and this one has its index.
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                Err(Error::Io { what: "remember a clsact qdisc", source })
            }
            _ => Ok(()),
        }
    }

    fn qdisc_mark(&self, ifindex: u32) -> PathBuf {
        self.config.pins.join(format!("qdisc-{ifindex}"))
    }

    /// Detaches everything and removes all pins. Without this, dropping the value leaves sockets confined.
    pub fn detach(mut self) -> Result<(), Error> {
        let mut result = Ok(());
        for ifindex in self.devices.keys().copied().collect::<Vec<_>>() {
            result = result.and(self.detach_device(ifindex));
        }
        for link in self.links.drain(..) {
            result = result.and(link.detach());
        }
        remove_pins(&self.config.pins).map_err(|source| Error::Io { what: "remove pins", source })?;
        result
    }

    /// Packets to and from this interface stay within the host, too; 0: there is none.
    pub fn set_host_link(&self, ifindex: u32) {
        self.word(offset_of!(types::bss, host_link)).store(ifindex, Ordering::Relaxed);
    }

    /// The host's own address of a family: what its sockets speak from to compartments. None: the kernel chooses.
    pub fn set_host_address(&self, ipv6: bool, addr: Option<IpAddr>) {
        let offset = if ipv6 { offset_of!(types::bss, host6) } else { offset_of!(types::bss, host4) };
        let words: &[AtomicU32] = self.globals.atomics(offset, 4);
        for (word, value) in words.iter().zip(addr.map(ip).unwrap_or_default().word) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// What a compartment may do, and from which addresses. Takes effect with the next call or packet.
    pub fn set_compartment(&mut self, slot: u32, to: &Confined) -> Result<(), Error> {
        self.check_slot(slot)?;
        let of = |four: bool| to.sources.iter().filter(move |s| s.addr.is_ipv4() == four);
        let most = c::SOURCES as usize;
        let primary = |four| of(four).next().map(|s| ip(s.addr)).unwrap_or_default();
        let count = |four| u16::try_from(of(four).count().min(most)).unwrap_or(0);
        let (count4, count6) = (count(true), count(false));
        let device = device(&to.sources);
        let several = count4 > 1 || count6 > 1 || (device == 0 && count4 + count6 > 0);
        if several {
            let mut sources = afnet_sources::default();
            for (list, four) in [(&mut sources.v4, true), (&mut sources.v6, false)] {
                for (entry, s) in list.iter_mut().zip(of(four)) {
                    let prefix_len = bits(s.addr, s.prefix_len);
                    *entry = afnet_source { addr: ip(s.addr), ifindex: s.ifindex, prefix_len };
                }
            }
            self.maps.sources.insert(&slot, &sources)?;
        }
        let flag = |on, bit| if on { bit } else { 0 };
        let entry = afnet_confined {
            cgroup: to.cgroup,
            primary4: primary(true),
            primary6: primary(false),
            flags: flag(to.isolated, c::CONFINED_ISOLATED)
                | flag(to.raw_sockets, c::CONFINED_RAW)
                | flag(to.unprivileged_ports, c::CONFINED_PRIVILEGED),
            count4,
            count6,
            sockets: to.sockets,
            device,
            broadcast4: of(true).next().map_or(0, broadcast),
            reserved: 0,
        };
        self.maps.confined.insert(&slot, &entry)?;
        let first = of(true).next().map(|s| s.addr);
        let before = match first {
            Some(addr) => self.primaries.insert(slot, addr),
            None => self.primaries.remove(&slot),
        };
        // Sockets stay where they are when it changes.
        if before.is_some() && before != first {
            self.word(offset_of!(types::bss, off_primary)).store(1, Ordering::Relaxed);
        }
        if !several {
            self.maps.sources.remove(&slot)?;
        }
        if let Some(old) = self.cgroups.get(&slot)
            && *old != to.cgroup
        {
            self.maps.cgroups.remove(old)?;
            self.maps.quota.remove(old)?;
            self.cgroups.remove(&slot);
        }
        if to.cgroup != 0 {
            self.maps.cgroups.insert(&to.cgroup, &slot)?;
            self.cgroups.insert(slot, to.cgroup);
        }
        Ok(())
    }

    /// Forgets a compartment. Sockets that are left of it can do nothing any more.
    pub fn clear_compartment(&mut self, slot: u32) -> Result<(), Error> {
        self.set_compartment(slot, &Confined::default())?;
        self.maps.refusals.set_percpu(&slot, &afnet_refusals::default())
    }

    /// Gives an address to a compartment.
    pub fn insert_address(&self, addr: IpAddr, slot: u32) -> Result<(), Error> {
        self.check_slot(slot)?;
        self.maps.owners.insert(&ip(addr), &slot)?;
        self.changed();
        Ok(())
    }

    /// Takes an address back; fine if it was not there.
    pub fn remove_address(&self, addr: IpAddr) -> Result<(), Error> {
        self.maps.owners.remove(&ip(addr))?;
        self.changed();
        Ok(())
    }

    /// Gives a delegated prefix to a compartment.
    pub fn insert_prefix(&mut self, addr: IpAddr, len: u8, slot: u32) -> Result<(), Error> {
        self.check_slot(slot)?;
        self.maps
            .owner_prefixes
            .insert(&afnet_owner_prefix { len: bits(addr, len), addr: ip(addr) }, &slot)?;
        self.prefixes += 1;
        self.announce_prefixes();
        Ok(())
    }

    /// Takes a prefix back; fine if it was not there.
    pub fn remove_prefix(&mut self, addr: IpAddr, len: u8) -> Result<(), Error> {
        let key = afnet_owner_prefix { len: bits(addr, len), addr: ip(addr) };
        if self.maps.owner_prefixes.remove(&key)? {
            self.prefixes = self.prefixes.saturating_sub(1);
        }
        self.announce_prefixes();
        Ok(())
    }

    fn announce_prefixes(&self) {
        self.word(offset_of!(types::bss, has_owner_prefixes)).store(self.prefixes, Ordering::Relaxed);
        self.changed();
    }

    /// Sockets look again at what they have found good.
    fn changed(&self) {
        self.word(offset_of!(types::bss, epoch)).fetch_add(1, Ordering::Relaxed);
    }

    /// How many sockets its processes have made that are still there.
    pub fn sockets(&self, slot: u32) -> Result<u64, Error> {
        let Some(cgroup) = self.cgroups.get(&slot) else { return Ok(0) };
        Ok(self.maps.quota.get(cgroup)?.map_or(0, |quota| quota.sockets))
    }

    /// What was refused to a compartment, in the order of [`Refusal`].
    pub fn refusals(&self, slot: u32) -> Result<Vec<u64>, Error> {
        let mut sum = vec![0; Refusal::COUNT];
        for cpu in self.maps.refusals.get_percpu(&slot)? {
            crate::demux::add(&mut sum, &cpu.count);
        }
        Ok(sum)
    }

    /// What is known of a UDP socket of a compartment; `None` for one that was made outside of compartments.
    pub fn registered(&self, socket: BorrowedFd<'_>) -> Result<Option<Registered>, Error> {
        let known = self.maps.sockets.get(&number(socket))?.filter(|s| s.slot != 0);
        Ok(known.map(|s| {
            let home = self.cgroups.get(&s.slot) == Some(&s.cgroup);
            Registered::new(&s, home)
        }))
    }

    /// Has the release of a socket of a compartment reported, by its cookie (SO_COOKIE): when its last descriptor is
    /// closed, or it gives its port up otherwise.
    pub fn watch_release(&self, socket: BorrowedFd<'_>, cookie: u64) -> Result<(), Error> {
        self.maps.claimed.insert(&number(socket), &cookie)
    }

    /// Whether endpoints are in a group, or at a broadcast address, of a device: what this host sends there goes to the
    /// workers, too.
    pub fn set_fast_group(&self, ifindex: u32, group: IpAddr, on: bool) -> Result<(), Error> {
        let key = afnet_fast_group { ifindex, addr: ip(group) };
        if on {
            self.maps.fast_groups.insert(&key, &1)
        } else {
            self.maps.fast_groups.remove(&key).map(|_| ())
        }
    }

    /// Whether a socket, by its cookie (SO_COOKIE), has had the datagrams to a group at a device that a worker hands on to
    /// the kernel.
    pub fn set_replicated(&self, cookie: u64, ifindex: u32, group: IpAddr, on: bool) -> Result<(), Error> {
        let key = afnet_replicated { cookie, ifindex, reserved: 0, group: ip(group) };
        if on { self.maps.replicated.insert(&key, &1) } else { self.maps.replicated.remove(&key).map(|_| ()) }
    }

    /// A number of the time since a socket has joined a group; `None`: it is not in it, or not found. It gets the same number
    /// again after it has left only when an RCU grace period has gone by.
    pub fn joined(&self, asked: &Joined) -> Option<u32> {
        let Joined { slot, cookie, port, ifindex, group } = *asked;
        // The programs' `home` is the low half.
        #[expect(clippy::cast_possible_truncation, reason = "as in the programs")]
        let home = *self.cgroups.get(&slot)? as u32;
        let any =
            if group.is_ipv4() { ip(Ipv4Addr::UNSPECIFIED.into()) } else { ip(Ipv6Addr::UNSPECIFIED.into()) };
        let at = afnet_port_key { addr: any, home, port, protocol: UDP, bucket: 0 };
        let asked = afnet_replicated { cookie, ifindex, reserved: 0, group: ip(group) };
        joined::ask(self.membership.as_fd(), &at, &asked)
    }

    /// The reports.
    pub fn releases(&mut self) -> &mut Releases {
        &mut self.releases
    }

    /// Reports that were lost since the programs were loaded.
    pub fn releases_lost(&self) -> u32 {
        self.word(offset_of!(types::bss, releases_lost)).load(Ordering::Relaxed)
    }

    fn check_slot(&self, slot: u32) -> Result<(), Error> {
        if (1..self.config.compartments).contains(&slot) { Ok(()) } else { Err(Error::Slot(slot)) }
    }
}

/// Key of a map of sockets.
fn number(socket: BorrowedFd<'_>) -> u32 {
    u32::try_from(socket.as_raw_fd()).expect("an open file descriptor is not negative")
}

/// Removes everything that a confinement pins, and so ends it: also what a daemon before has left.
fn remove_pins(pins: &Path) -> io::Result<()> {
    for entry in fs::read_dir(pins)? {
        let entry = entry?;
        let name = entry.file_name();
        let ours = ["map-", "cgroup-", "host-", "lookup", "tc-"];
        if ours.iter().any(|start| name.to_string_lossy().starts_with(start)) {
            fs::remove_file(entry.path())?;
        }
        // Of a device that went while no daemon was there, with its qdisc.
        if name.to_string_lossy().starts_with("qdisc-") {
            fs::remove_dir(entry.path())?;
        }
    }
    Ok(())
}
