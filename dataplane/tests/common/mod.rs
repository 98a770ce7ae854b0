//! A dataplane on a test bed: device, BPF program, workers; tenants' ends of endpoints; a control that answers route
//! questions from a list.
#![allow(dead_code, reason = "each test uses some of it")]

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use afnet_abi::{
    shm::{Record, kind},
    vlan::Vlan,
};
use afnet_bpf::{AddressEntry, AttachMode, CompartmentConfig, Demux, DemuxConfig, HostDemux, Limits};
use afnet_dataplane::{
    Attachment, Compartment, Config, Counter, Dataplane, Device, EndpointKind, Event, FrameAudit, HostLink,
    ModePreference, ModeReport, OwnedAddress, PortClaim, Route, RouteKey, net,
};
use afnet_ring::{Consumer, Mapping, Producer};
use afnet_tests::{
    bed::{Bed, DEVICE, PEER, PEER_V4, PEER_V6},
    netns::Netns,
    veth::Veth,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Bytes of the rings.
pub const RING: usize = 1 << 20;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Everything under test, on a bed.
pub struct Rig {
    pub bed: Bed,
    pub demux: Demux,
    pub dataplane: Option<Dataplane>,
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub mtu: u32,
    pub report: ModeReport,
    /// Owner of each address.
    pub owners: HashMap<IpAddr, u32>,
    pub events: Vec<Event>,
    /// Answers instead of the usual ones.
    pub special: HashMap<IpAddr, Route>,
    pub host: Option<HostDemux>,
    compartments: HashMap<u32, Compartment>,
    pin: PathBuf,
}

/// What a rig shall be like.
pub struct Options {
    pub veth: Veth,
    pub queues: u32,
    pub mtu: u32,
    pub config: Config,
}

impl Default for Options {
    fn default() -> Self {
        let config =
            Config { frames_per_queue: 4096, rx_ring: 1024, compartment_rx_ring: 512, ..Config::default() };
        Self { veth: Veth::default(), queues: 1, mtu: 1500, config }
    }
}

impl Rig {
    pub fn new(label: &str) -> Self {
        Self::with(label, Options::default())
    }

    pub fn with(label: &str, options: Options) -> Self {
        let bed = Bed::with(label, options.veth.queues(options.queues).mtu(options.mtu));
        Self::on(bed, label, options)
    }

    pub fn on(bed: Bed, label: &str, options: Options) -> Self {
        let Options { queues, mtu, config, .. } = options;
        let (ifindex, mac) = (bed.host.ifindex(DEVICE), bed.device_mac());
        let pin = bpffs().join(format!("dataplane-{label}-{}", bed.host.name()));
        let slots = config.slots;
        let (demux, dataplane, report) = bed.host.enter(|| {
            let limits = Limits { compartments: slots, ..Limits::default() };
            let frags = mtu > 3498;
            let mut demux =
                Demux::load(&DemuxConfig { ifindex, mac, queues, frags, limits }).expect("load the demux");
            demux.attach(AttachMode::Native, &pin).expect("attach the demux");
            let mut dataplane = Dataplane::start(config, Arc::new(|| {})).expect("start workers");
            let report = dataplane
                .add_device(Device {
                    name: DEVICE.to_owned(),
                    ifindex,
                    mac,
                    mtu,
                    queues,
                    want: ModePreference::Best,
                    sockets: Box::new(demux.sockets().expect("sockets")),
                    dirty: Box::new(demux.dirty().expect("dirty")),
                })
                .expect("add the device");
            (demux, dataplane, report)
        });
        Self {
            bed,
            demux,
            dataplane: Some(dataplane),
            ifindex,
            mac,
            mtu,
            report,
            owners: HashMap::new(),
            events: Vec::new(),
            special: HashMap::new(),
            host: None,
            compartments: HashMap::new(),
            pin,
        }
    }

    /// After `remove_device`: adds it once more.
    pub fn add_device_again(&mut self) {
        let Self { bed, demux, dataplane, ifindex, mac, mtu, .. } = self;
        let device = Device {
            name: DEVICE.to_owned(),
            ifindex: *ifindex,
            mac: *mac,
            mtu: *mtu,
            queues: 1,
            want: ModePreference::Best,
            sockets: Box::new(demux.sockets().expect("sockets")),
            dirty: Box::new(demux.dirty().expect("dirty")),
        };
        let dataplane = dataplane.as_mut().expect("still running");
        bed.host.enter(|| dataplane.add_device(device)).expect("add the device again");
    }

    pub fn dp(&mut self) -> &mut Dataplane {
        self.dataplane.as_mut().expect("still running")
    }

    /// Gives `address` to compartment `slot`.
    pub fn address(&mut self, slot: u32, address: &str, vlan: Vlan) {
        let addr: IpAddr = address.parse().expect("an address");
        self.demux.set_compartment(slot, CompartmentConfig::default()).expect("set the compartment");
        self.demux
            .insert_address(vlan, addr, AddressEntry { slot, tentative: false, fast_only: true })
            .expect("insert the address");
        self.owners.insert(addr, slot);
        // ARP and ND are the XDP program's business, and tested there.
        neighbour(&self.bed.peer, PEER, address, self.mac);
        let prefix_len = if addr.is_ipv4() { 24 } else { 64 };
        let ifindex = self.ifindex;
        let compartment = self.compartments.entry(slot).or_default();
        compartment.addresses.push(OwnedAddress {
            addr,
            prefix_len,
            ifindex,
            vlan,
            delegated: false,
            usable: true,
            fast_only: true,
        });
        let compartment = compartment.clone();
        self.dp().set_compartment(slot, compartment).expect("set the compartment");
    }

    /// Isolates a compartment that has an address, or ends that.
    pub fn isolate(&mut self, slot: u32, isolated: bool) {
        let compartment = self.compartments.get_mut(&slot).expect("a compartment");
        compartment.isolated = isolated;
        let compartment = compartment.clone();
        self.dp().set_compartment(slot, compartment).expect("set the compartment");
    }

    /// Attaches a tenant to `slot`.
    pub fn attach(&mut self, slot: u32, kind: EndpointKind) -> Tenant {
        if kind == EndpointKind::Raw {
            let config = CompartmentConfig { raw: true, ..CompartmentConfig::default() };
            self.demux.set_compartment(slot, config).expect("set the compartment");
        }
        let Self { bed, dataplane, .. } = self;
        let dataplane = dataplane.as_mut().expect("still running");
        let attachment =
            bed.host.enter(|| dataplane.attach(slot, kind, RING, RING)).expect("attach an endpoint");
        Tenant::new(attachment)
    }

    /// Claims a port for a tenant.
    pub fn claim(&mut self, tenant: &Tenant, slot: u32, port: u16) {
        self.dp().claim(tenant.id, &PortClaim::new(port, 1)).expect("claim");
        self.demux.insert_claim(slot, net::protocol::UDP, port, 1).expect("insert the claim");
    }

    /// Compartment `slot` with the addresses, and a UDP tenant with `port`.
    pub fn udp_tenant(&mut self, slot: u32, addresses: &[&str], port: u16) -> Tenant {
        for address in addresses {
            self.address(slot, address, Vlan::NONE);
        }
        let tenant = self.attach(slot, EndpointKind::Udp);
        self.claim(&tenant, slot, port);
        tenant
    }

    /// A veth pair to the host's own kernel.
    pub fn host_link(&mut self, mtu: u32) {
        let workers = self.dp().workers();
        let ns = &self.bed.host;
        let end = |name: &str| format!("{name} mtu {mtu} numrxqueues {workers} numtxqueues {workers}");
        ns.ip(&format!("link add {} type veth peer {}", end("hostW"), end("hostK")));
        for name in ["hostW", "hostK"] {
            ns.sysctl(&format!("ipv6/conf/{name}/accept_dad"), "0");
            ns.ip(&format!("link set {name} up"));
        }
        ns.run("ethtool -K hostK tx off gso off tso off");
        ns.sysctl("ipv4/conf/hostK/rp_filter", "0");
        ns.sysctl("ipv4/conf/all/rp_filter", "0");
        ns.sysctl("ipv4/conf/hostK/accept_local", "1");
        let (ifindex, mac, kernel_mac) = (ns.ifindex("hostW"), ns.mac("hostW"), ns.mac("hostK"));
        let queues = u32::try_from(workers).expect("few workers");
        let dataplane = self.dataplane.as_mut().expect("still running");
        let demux = ns.enter(|| {
            let mut demux = HostDemux::load(queues).expect("load the host link's program");
            demux.attach(ifindex, AttachMode::Native).expect("attach it");
            let sockets = Box::new(demux.sockets().expect("sockets"));
            dataplane
                .add_host_link(HostLink {
                    name: "hostW".into(),
                    ifindex,
                    mac,
                    kernel_mac,
                    mtu,
                    queues,
                    sockets,
                })
                .expect("add the host link");
            demux
        });
        self.host = Some(demux);
    }

    /// Answers what the workers ask: other compartments are local, the rest is the peer.
    pub fn pump(&mut self) {
        let events: Vec<Event> = self.dp().poll_events().collect();
        for event in events {
            if let Event::Resolve(key) = &event
                && let Some(route) = self.answer(key)
            {
                let key = *key;
                self.dp().route_reply(key, route).expect("route reply");
            }
            self.events.push(event);
        }
    }

    fn answer(&self, key: &RouteKey) -> Option<Route> {
        let owned = &self.compartments.get(&key.slot)?.addresses;
        let src =
            key.src.or_else(|| Some(owned.iter().find(|a| a.addr.is_ipv4() == key.dst.is_ipv4())?.addr))?;
        if let Some(route) = self.special.get(&key.dst) {
            return Some(*route);
        }
        if let Some(slot) = self.owners.get(&key.dst) {
            return Some(Route::Local { slot: *slot, src });
        }
        let dst_mac = self.bed.peer_mac();
        Some(Route::Wire {
            ifindex: self.ifindex,
            vlan: key.vlan,
            src_mac: self.mac,
            dst_mac,
            mtu: self.mtu,
            src,
        })
    }

    /// Answers questions until `done` or the time is over.
    #[track_caller]
    pub fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.pump();
            if let Some(found) = done(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "no {what}; {}", self.counters());
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// The next record of a tenant.
    #[track_caller]
    pub fn receive(&mut self, tenant: &mut Tenant) -> (Record, Vec<u8>) {
        self.until("record", |_| tenant.try_receive())
    }

    /// A counter of the workers, summed.
    pub fn worker(&mut self, counter: Counter) -> u64 {
        self.dp().stats().workers.iter().map(|w| w[counter as usize]).sum()
    }

    /// A counter of a compartment.
    pub fn slot(&mut self, slot: u32, counter: Counter) -> u64 {
        self.dp().stats().slots.iter().filter(|(s, _)| *s == slot).map(|(_, c)| c[counter as usize]).sum()
    }

    /// All counters that are not zero, for messages.
    pub fn counters(&mut self) -> String {
        let stats = self.dp().stats();
        let show = |c: &[u64]| {
            let all = Counter::ALL.iter().filter(|n| c[**n as usize] != 0);
            all.map(|n| format!("{}={}", n.name(), c[*n as usize])).collect::<Vec<_>>().join(" ")
        };
        let mut text = String::new();
        for (i, c) in stats.workers.iter().enumerate() {
            text += &format!("\n worker {i}: {}", show(c));
        }
        for (slot, c) in &stats.slots {
            text += &format!("\n slot {slot}: {}", show(c));
        }
        for (id, _, c) in &stats.endpoints {
            text += &format!("\n endpoint {id}: {}", show(c));
        }
        let bpf = self.demux.counters().expect("counters");
        let all = afnet_bpf::Counter::all().filter(|n| bpf[*n as usize] != 0);
        text += "\n bpf: ";
        text += &all.map(|n| format!("{}={}", n.name(), bpf[n as usize])).collect::<Vec<_>>().join(" ");
        text
    }

    /// Stops everything and checks that no frame was lost.
    #[track_caller]
    pub fn finish(mut self) -> FrameAudit {
        let audit = self.dataplane.take().expect("still running").shutdown().expect("shut down");
        assert!(!audit.queues.is_empty());
        for queue in &audit.queues {
            assert_eq!(queue.lost, 0, "{queue:?}");
            assert_eq!(queue.foreign, 0, "{queue:?}");
            assert_eq!(queue.tx, 0, "{queue:?}");
            assert_eq!(queue.free + queue.fill, queue.total, "{queue:?}");
        }
        audit
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.dataplane = None;
        // Nothing to be done about a failure; the namespace goes anyway.
        let _ = self.demux.detach();
        let _ = std::fs::remove_file(&self.pin);
    }
}

/// A bpffs; mounted if there is none.
fn bpffs() -> PathBuf {
    let path = PathBuf::from("/sys/fs/bpf");
    let mounted = std::fs::read_to_string("/proc/mounts").is_ok_and(|m| m.contains(" /sys/fs/bpf bpf "));
    if !mounted {
        let out = std::process::Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]).status();
        assert!(out.is_ok_and(|s| s.success()), "mount bpffs");
    }
    path
}

/// The tenant's end of an endpoint.
pub struct Tenant {
    pub id: u64,
    pub rings: Vec<(Consumer, Producer)>,
    pub wake: OwnedFd,
    pub doorbells: Vec<OwnedFd>,
    pub memfd: OwnedFd,
}

impl Tenant {
    fn new(attachment: Attachment) -> Self {
        let Attachment { id, memfd, wake, doorbells } = attachment;
        let mapping = Mapping::open(memfd.as_fd()).expect("open the endpoint");
        let rings = (0..doorbells.len()).map(|w| mapping.tenant_side(w).expect("a ring pair")).collect();
        Self { id, rings, wake, doorbells, memfd }
    }

    /// The next record of any worker.
    pub fn try_receive(&mut self) -> Option<(Record, Vec<u8>)> {
        for (rx, _) in &mut self.rings {
            let Some(item) = rx.peek().expect("a well-behaved worker") else { continue };
            let found = (item.record, item.payload.to_vec());
            item.consume();
            // Workers never wait for room: nobody to wake.
            let _ = rx.release();
            return Some(found);
        }
        None
    }

    /// Sends a record through worker 0.
    pub fn send(&mut self, record: &Record, payload: &[u8]) {
        self.send_by(0, record, payload);
    }

    /// Sends a record through a worker.
    pub fn send_by(&mut self, worker: usize, record: &Record, payload: &[u8]) {
        let (_, tx) = &mut self.rings[worker];
        let mut room = tx.reserve(payload.len()).expect("room in the TX ring");
        room.write(0, payload);
        room.commit(record, payload.len());
        if tx.publish() {
            rustix::io::write(&self.doorbells[worker], &1u64.to_ne_bytes()).expect("ring the doorbell");
        }
    }

    /// Sends a datagram from `port`.
    pub fn datagram(&mut self, port: u16, to: SocketAddr, payload: &[u8]) {
        self.send(&datagram(port, to), payload);
    }

    /// Sleeps for records; whether the doorbell rang in time.
    pub fn sleep(&mut self, worker: usize, time: Duration) -> bool {
        if !self.rings[worker].0.sleep() {
            return true;
        }
        let mut fds = [PollFd::new(&self.wake, PollFlags::IN)];
        let timeout = Timespec::try_from(time).expect("a short time");
        let rang = poll(&mut fds, Some(&timeout)).expect("poll") > 0;
        if rang {
            let mut count = [0; 8];
            rustix::io::read(&self.wake, &mut count).expect("read the eventfd");
        }
        self.rings[worker].0.wake();
        rang
    }
}

/// Record of a datagram.
pub fn datagram(port: u16, to: SocketAddr) -> Record {
    Record {
        kind: kind::DATAGRAM,
        local_port: port,
        remote: net::from_ip(to.ip()),
        remote_port: to.port(),
        ..Record::default()
    }
}

/// The peer's addresses.
pub fn peer(v6: bool) -> &'static str {
    if v6 { PEER_V6 } else { PEER_V4 }
}

/// A static neighbour entry.
pub fn neighbour(ns: &Netns, device: &str, address: &str, mac: [u8; 6]) {
    let mac = mac.map(|b| format!("{b:02x}")).join(":");
    ns.ip(&format!("neigh replace {address} lladdr {mac} dev {device} nud permanent"));
}
