//! Coming up: in an order in which whatever fails leaves everything as it was, and a restart lets no frame fall.
//!
//! ```text
//! privileges, files, locks, programs loaded          nothing visible yet
//! state files -> registry -> maps of the programs    they know all addresses before they run
//! attach (or replace the dead daemon's program)      from here frames are answered
//! workers, host link, sockets                        from here claims can be served
//! control socket, READY=1
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use afnet_abi::control::AddressState;
use afnet_abi::vlan::Vlan;
use afnet_dataplane as dp;
use mio::{Poll, Token, Waker};
use rustix::io::Errno;

use super::confine::KernelPath;
use super::core::Core;
use super::device::{self, Device};
use super::host::Host;
use super::mirror::Mirror;
use super::multicast::Multicast;
use super::probe::Probes;
use super::release::Behind;
use super::resolve::Resolver;
use super::sockets::Sockets;
use crate::config::{Config, Membership, Wake};
use crate::error::{Context, Refused};
use crate::names::Instance;
use crate::netlink::Netlink;
use crate::registry::{Limits, Owned, Prefix, Realm, Registry, bits};
use crate::state::{Saved, Store};
use crate::system::{bpffs, caps, cgroup::Cgroups};

impl Core {
    /// Brings everything up but the control socket. `waker`: wakes the loop for workers' events.
    pub fn start(config: Config, poll: &Poll, waker: Token) -> Result<Self, Refused> {
        caps::raise_file_limit(config.limits.connections, config.worker_cpus().len());
        let refuse = |e: &dyn std::fmt::Display| Refused::new(Errno::INVAL, e.to_string());
        let instance = Instance::new(&config.instance).map_err(|e| refuse(&e))?;
        if config.devices.is_empty() {
            return Err(refuse(&"no device: say --device DEV, or [[device]] in the configuration"));
        }
        let mut netlink = Netlink::open().refused(|| "opening rtnetlink")?;
        let mut devices = Vec::new();
        for wanted in &config.devices {
            let live = device::load(&mut netlink, wanted, &config.limits)?;
            devices.push(Device { config: wanted.clone(), live: Some(live) });
        }
        bpffs::prepare(&instance.pin_dir())?;
        let store = Store::open(&instance.state_dir())?;
        let mut mirror = Mirror::default();
        mirror.fill(&mut netlink).map_err(|e| e.refused("reading the kernel's addresses and neighbours"))?;
        let dataplane = start_workers(&config, poll, waker)?;
        let handle =
            devices.iter().filter_map(|d| d.live.as_ref()).map(|l| l.link.ifindex).min().unwrap_or(1);
        let kernel_path = KernelPath::load(&config.limits, devices.len(), handle, instance.pin_dir());
        let limits = Limits {
            compartments: config.limits.compartments,
            addresses: config.limits.addresses,
            prefixes: config.limits.prefixes,
        };
        let probes = Probes::open(&config)?;
        let mut core = Self {
            registry: Registry::new(limits),
            cgroups: Cgroups::find(&instance.directory()),
            kernel_path,
            multicast: Multicast::new(
                probes.seed(),
                config.limits.memberships,
                config.membership == Membership::Own,
            ),
            config,
            instance,
            store,
            netlink,
            mirror,
            devices,
            host: None,
            dataplane,
            sockets: Sockets::open().refused(|| "opening sock_diag")?,
            endpoints: HashMap::new(),
            behind: Behind::default(),
            resolver: Resolver::default(),
            probes,
            dying: Vec::new(),
            events: Vec::new(),
            kicked: Vec::new(),
            flush_at: None,
        };
        // What a dead daemon left is for the next start that succeeds, not for this one to remove.
        let inherited = core.inherited()?;
        match core.come_up() {
            Ok(()) => Ok(core),
            Err(e) => {
                core.stop(inherited);
                Err(e)
            }
        }
    }

    /// Whether there is something of a daemon that was killed or told to keep it.
    fn inherited(&self) -> Result<bool, Refused> {
        let pinned = |d: &Device| self.instance.link_pin(&d.config.name).exists();
        let (saved, bad) = self.store.load()?;
        Ok(!saved.is_empty() || !bad.is_empty() || self.devices.iter().any(pinned))
    }

    fn come_up(&mut self) -> Result<(), Refused> {
        let workers = self.dataplane.workers();
        let mtu =
            self.devices.iter().filter_map(|d| d.live.as_ref()).map(|l| l.link.mtu).max().unwrap_or(1500);
        self.host = Some(Host::create(&mut self.netlink, &self.instance, workers, mtu)?);
        self.restore()?;
        for index in 0..self.devices.len() {
            self.attach_device(index)?;
        }
        if let Some(host) = &self.host {
            host.bind(&mut self.dataplane)?;
        }
        self.attach_kernel_path();
        (0..self.devices.len()).try_for_each(|index| self.take_word(index))?;
        self.configured()?;
        self.begin_all();
        self.end_strays();
        Ok(())
    }

    /// Attaches a device's program and binds its sockets; the maps hold the addresses already.
    pub(super) fn attach_device(&mut self, index: usize) -> Result<(), Refused> {
        let host = self.host.as_ref().map(|h| h.link.kernel.ifindex);
        let Some(device) = self.devices.get_mut(index) else { return Ok(()) };
        let Some(live) = &mut device.live else { return Ok(()) };
        live.attach(device.config.mode, &self.instance.link_pin(&device.config.name))?;
        live.bind(device.config.mode, &mut self.dataplane)?;
        if let Some(host) = host {
            live.demux.set_host_link(host);
            let what = || format!("attaching local delivery for {} to lo", live.link.name);
            live.demux.attach_local().map_err(|e| device::bpf(what(), &e))?;
        }
        Ok(())
    }

    /// Compartments of the state files.
    fn restore(&mut self) -> Result<(), Refused> {
        let (saved, bad) = self.store.load()?;
        bad.iter().for_each(|why| tracing::error!("not restored: {why}"));
        for compartment in saved {
            self.restore_one(&compartment)?;
        }
        self.remove_strays();
        self.remove_stray_loopbacks();
        if !self.registry.is_empty() {
            tracing::info!("{} compartments restored", self.registry.len());
        }
        Ok(())
    }

    fn restore_one(&mut self, saved: &Saved) -> Result<(), Refused> {
        let slot = match self.registry.add(&saved.name, saved.policy.clone(), Some(saved.id)) {
            Ok(slot) => slot,
            Err(e) => {
                tracing::error!("{} is not restored: {e}", saved.name);
                return Ok(());
            }
        };
        self.set_policy(slot)?;
        for address in &saved.addresses {
            // A device that the configuration has no more, for one.
            let entered = self
                .owned(&address.spec, address.state)
                .map(|o| Owned { state: self.restored_state(&o), ..o })
                .and_then(|o| self.registry.add_address(slot, o).map(|()| o));
            match entered {
                Ok(owned) => {
                    self.install_kernel(&owned)?;
                    self.install_demux(slot, &owned)?;
                    self.confine_address(slot, &owned)?;
                }
                Err(e) => tracing::error!("{} of {} is not restored: {e}", address.spec.address, saved.name),
            }
        }
        Ok(())
    }

    /// The state in which an address goes on: what a daemon has found free, its program has defended since, and the kernel
    /// has it still. Otherwise, as after a link that was down, it is asked for again.
    fn restored_state(&self, owned: &Owned) -> AddressState {
        let live = self.devices.get(usize::from(owned.realm.device)).and_then(|d| d.live.as_ref());
        let lost = live.is_some_and(|l| owned.on_device() && !self.mirror.has(l.link.ifindex, owned.address));
        match (self.probes.first_state(owned), owned.state) {
            (AddressState::Ok, _) => AddressState::Ok,
            (first, AddressState::Ok) if lost => first,
            (_, saved) => saved,
        }
    }

    /// Kernel addresses and local routes of a daemon whose state is gone: nobody else would ever remove them.
    fn remove_strays(&mut self) {
        let held = |registry: &Registry, device, prefix| {
            let found = registry.find(Realm { device, vlan: Vlan::NONE }, prefix);
            found.is_some_and(|(_, owned)| owned.in_kernel())
        };
        for (device, live) in (0u16..).zip(&self.devices) {
            let Some(link) = live.live.as_ref().map(|live| &live.link) else { continue };
            for address in self.mirror.ours(link.ifindex) {
                if !held(&self.registry, device, Prefix { address, len: bits(address) }) {
                    tracing::warn!("removing {address} from {}, left by a former afnetd", link.name);
                    if let Err(e) = self.netlink.del_address(link.ifindex, address) {
                        tracing::error!("taking {address} from {}: {e}", link.name);
                    }
                }
            }
        }
        let known = self.netlink.links().and_then(|links| Ok((links, self.netlink.local_routes()?)));
        let (links, routes) = match known {
            Ok(known) => known,
            Err(e) => {
                tracing::error!("looking for local routes of a former afnetd: {e}");
                return;
            }
        };
        for route in routes {
            let stray = match self.device_by_ifindex(route.device) {
                Some(device) => !held(&self.registry, device, route.prefix),
                // Of a device that is gone; or of another daemon's.
                None => links.iter().all(|link| link.ifindex != route.device),
            };
            if stray {
                let Prefix { address, len } = route.prefix;
                tracing::warn!("removing the local route {address}/{len}, left by a former afnetd");
                if let Err(e) = self.netlink.del_local_route(route) {
                    tracing::error!("removing the local route {address}/{len}: {e}");
                }
            }
        }
    }

    /// Compartments of the configuration that there are not yet.
    fn configured(&mut self) -> Result<(), Refused> {
        for wanted in self.config.compartments.clone() {
            let slot = match self.registry.slot(&wanted.name) {
                Ok(slot) => slot,
                Err(_) => {
                    self.add(&wanted.name, wanted.policy)?;
                    self.registry.slot(&wanted.name)?
                }
            };
            for spec in &wanted.addresses {
                let owned = self.owned(spec, AddressState::Ok)?;
                let owner = self.registry.find(owned.realm, owned.prefix()).map(|(owner, _)| owner);
                if owner != Some(slot) {
                    self.add_address(&wanted.name, spec)?;
                }
            }
        }
        self.events.clear();
        Ok(())
    }
}

fn start_workers(config: &Config, poll: &Poll, waker: Token) -> Result<dp::Dataplane, Refused> {
    let waker = Waker::new(poll.registry(), waker).refused(|| "making the loop's waker")?;
    let notify: dp::Notify = Arc::new(move || {
        // Fails only if the eventfd is full: then the loop is awake anyway.
        let _ = waker.wake();
    });
    let settings = dp::Config {
        workers: config.worker_cpus(),
        wake: match config.workers.wake {
            Wake::Busy => dp::WakeMode::Busy,
            Wake::Adaptive => dp::WakeMode::Adaptive,
            Wake::Interrupt => dp::WakeMode::Interrupt,
        },
        frame_size: config.limits.frame_size,
        frames_per_queue: config.limits.frames,
        slots: config.limits.compartments,
        reassembly_bytes: config.limits.reassembly,
        ..dp::Config::default()
    };
    dp::Dataplane::start(settings, notify).map_err(|e| device::dataplane_error("starting the workers", &e))
}
