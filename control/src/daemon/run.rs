//! The event loop, and what `afnetd` does from start to end.

use std::fs;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::args::Args;
use super::core::Core;
use super::device;
use super::probe::Conflict;
use super::report::counter_help;
use crate::config::Config;
use crate::error::{Context, Refused};
use crate::names::Instance;
use crate::netlink::events::{self, Events as KernelEvents};
use crate::server::{Server, Settings};
use crate::system::{accounts::group_id, caps, notify, signals::Signals};

const KERNEL: Token = Token(0);
const SIGNALS: Token = Token(1);
const WAKER: Token = Token(2);
const RELEASES: Token = Token(3);
/// Event rings of device `i`: 16 + i.
const RINGS: usize = 16;
/// The server's tokens, above those of the most devices there can be.
const SERVER: usize = RINGS + (1 << 16);
/// Slow work: time-outs of connections and neighbours, ends of processes.
const TICK: Duration = Duration::from_secs(1);
/// While processes are being ended their cgroups are looked at more often.
const DYING_TICK: Duration = Duration::from_millis(20);

/// Runs the daemon as this process' command line says.
pub fn main() -> ExitCode {
    let args = Args::parse();
    if args.help_counters {
        print!("{}", counter_help());
        return ExitCode::SUCCESS;
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("AFNET_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
    let result = args.config().map_err(|e| e.to_string()).and_then(|c| run(c).map_err(|e| e.to_string()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("afnetd: {e}");
            ExitCode::FAILURE
        }
    }
}

/// The instance's directory, locked while the daemon runs. `fresh`: there was none before.
#[derive(Debug)]
struct Directory {
    _lock: OwnedFd,
    fresh: bool,
}

impl Directory {
    fn take(instance: &Instance) -> Result<Self, Refused> {
        let dir = instance.runtime_dir();
        let fresh = !dir.exists();
        fs::create_dir_all(&dir).refused(|| format!("making {}", dir.display()))?;
        // Whatever the umask is: tenants must reach the socket.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))
            .refused(|| format!("opening {} for tenants", dir.display()))?;
        let lock = fs::File::open(&dir).refused(|| format!("opening {}", dir.display()))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
            Errno::WOULDBLOCK => {
                let name = instance.name();
                let text = format!(
                    "an afnetd of instance {name:?} runs already: stop it, or choose another --instance"
                );
                Refused::new(Errno::ADDRINUSE, text)
            }
            e => Refused::new(e, format!("locking {}: {e}", dir.display())),
        })?;
        Ok(Self { _lock: lock.into(), fresh })
    }

    fn remove(path: &Path) {
        if let Err(e) = fs::remove_dir(path) {
            tracing::warn!("removing {}: {e}", path.display());
        }
    }
}

/// Runs until SIGTERM or SIGINT.
pub fn run(config: Config) -> Result<(), Refused> {
    let instance = Instance::new(&config.instance).map_err(|e| Refused::new(Errno::INVAL, e.to_string()))?;
    let group = config.group.as_deref().map(group_id).transpose()?;
    let keep = config.keep;
    caps::check()?;
    let directory = Directory::take(&instance)?;
    let result = serve(config, &instance, group);
    if matches!(result, Ok(())) && !keep || result.is_err() && directory.fresh {
        if result.is_err() {
            let _ = fs::remove_dir_all(instance.state_dir());
            crate::system::bpffs::remove(&instance.pin_dir());
        }
        Directory::remove(&instance.runtime_dir());
    }
    result
}

fn serve(config: Config, instance: &Instance, group: Option<u32>) -> Result<(), Refused> {
    let keep = config.keep;
    let limits = config.limits.clone();
    let mut poll = Poll::new().refused(|| "making the event loop")?;
    let mut signals = Signals::catch().refused(|| "catching signals")?;
    let mut kernel = KernelEvents::open().refused(|| "listening to rtnetlink")?;
    let watch = |e: io::Result<()>| e.refused(|| "setting the event loop up");
    watch(poll.registry().register(&mut signals.stream, SIGNALS, Interest::READABLE))?;
    watch(poll.registry().register(&mut SourceFd(&kernel.raw_fd()), KERNEL, Interest::READABLE))?;
    let mut core = Core::start(config, &poll, WAKER)?;
    let settings = Settings {
        instance: instance.name().to_owned(),
        run: run_number().refused(|| "drawing a random number")?,
        group,
        connections: limits.connections,
        user_connections: limits.user_connections,
    };
    let server = core
        .watch_rings(&poll)
        .and_then(|()| Server::new(&instance.socket(), poll.registry(), SERVER, settings));
    let mut server = match server {
        Ok(server) => server,
        Err(e) => {
            core.stop(keep);
            return Err(e);
        }
    };
    if let Err(e) = server.listen_abstract(&instance.abstract_socket()) {
        tracing::warn!("{e}: tenants that cannot reach {} find no daemon", instance.socket().display());
    }
    tracing::info!("instance {} is ready", instance.name());
    notify::notify("READY=1");
    let result = core.turn(&mut poll, &mut server, &mut signals, &mut kernel);
    notify::notify("STOPPING=1");
    drop(server);
    if !keep {
        core.leave_groups();
    }
    core.stop(keep);
    result
}

impl Core {
    fn turn(
        &mut self,
        poll: &mut Poll,
        server: &mut Server,
        signals: &mut Signals,
        kernel: &mut KernelEvents,
    ) -> Result<(), Refused> {
        let mut ready = Events::with_capacity(1024);
        let mut tick = Instant::now() + TICK;
        // Event rings that were not emptied.
        let mut rings: Vec<usize> = Vec::new();
        // What happened while we came up.
        self.kernel_events(kernel, poll);
        loop {
            let wait = if server.pending() || !rings.is_empty() {
                Duration::ZERO
            } else {
                let times = [Some(tick), self.flush_at, self.probes.next(), self.multicast.next()];
                let soonest = times.into_iter().flatten().min().unwrap_or(tick);
                soonest.saturating_duration_since(Instant::now())
            };
            match poll.poll(&mut ready, Some(wait)) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                    return Err(Refused::io("waiting for events", &e));
                }
                _ => {}
            }
            for event in &ready {
                match event.token() {
                    KERNEL => self.kernel_events(kernel, poll),
                    SIGNALS => {
                        if signals.received() {
                            return Ok(());
                        }
                    }
                    WAKER => self.worker_events(),
                    RELEASES => self.released(),
                    Token(token) if token >= SERVER => server.ready(event.token(), event),
                    Token(token) => rings.push(token - RINGS),
                }
            }
            rings.sort_unstable();
            rings.dedup();
            rings.retain(|index| self.ring_events(*index));
            server.serve(self);
            let now = Instant::now();
            self.probe(now);
            self.multicast(now);
            if now >= tick {
                server.sweep(now, self);
                self.reap(now);
                self.expire_neighbours(now);
                self.probes.expire(now);
                tick = now + if self.dying.is_empty() { TICK } else { DYING_TICK };
            } else if !self.dying.is_empty() {
                tick = tick.min(now + DYING_TICK);
            }
            self.flush_routes(now);
            for (conn, errno, why) in std::mem::take(&mut self.kicked) {
                server.kick(conn, errno, &why);
            }
            for event in std::mem::take(&mut self.events) {
                server.broadcast(&event);
            }
        }
    }

    fn worker_events(&mut self) {
        let events: Vec<_> = self.dataplane.poll_events().collect();
        for event in events {
            match event {
                afnet_dataplane::Event::Resolve(key) => self.resolve(key),
                afnet_dataplane::Event::Violation { endpoint, reason } => self.violation(endpoint, reason),
                afnet_dataplane::Event::QueueFailed { ifindex, queue, errno } => {
                    let name = self
                        .device_by_ifindex(ifindex)
                        .map(|d| self.devices[usize::from(d)].config.name.clone());
                    let error = io::Error::from_raw_os_error(errno);
                    tracing::error!(
                        "queue {queue} of {}: {error}",
                        name.as_deref().unwrap_or("the host link")
                    );
                }
            }
        }
    }

    /// Watches the event rings of the devices that are there.
    fn watch_rings(&mut self, poll: &Poll) -> Result<(), Refused> {
        if let Some(fd) = self.releases_fd() {
            let watched = poll.registry().register(&mut SourceFd(&fd), RELEASES, Interest::READABLE);
            watched.refused(|| "watching for sockets that are released")?;
        }
        (0..self.devices.len()).try_for_each(|index| self.watch_ring(poll, index))
    }

    fn watch_ring(&mut self, poll: &Poll, index: usize) -> Result<(), Refused> {
        let Some(live) = self.devices.get_mut(index).and_then(|d| d.live.as_mut()) else { return Ok(()) };
        let fds = [live.demux.events().as_fd().as_raw_fd(), live.demux.memberships().as_fd().as_raw_fd()];
        let mut watch =
            |fd| poll.registry().register(&mut SourceFd(fd), Token(RINGS + index), Interest::READABLE);
        fds.iter().try_for_each(&mut watch).refused(|| format!("watching the events of {}", live.link.name))
    }

    /// `true`: there may be more.
    fn ring_events(&mut self, index: usize) -> bool {
        let mut found = Vec::new();
        let Some(live) = self.devices.get_mut(index).and_then(|d| d.live.as_mut()) else { return false };
        let mut packets = Vec::new();
        let mut more = false;
        let drained = [
            live.demux.events().drain(|event| found.push(event)),
            live.demux.memberships().drain(|packet| packets.push(packet)),
        ];
        for result in drained {
            match result {
                Ok(rest) => more |= rest,
                Err(e) => tracing::error!("events of {}: {e}", live.link.name),
            }
        }
        let device = u16::try_from(index).unwrap_or(u16::MAX);
        let conflicts = found.into_iter().filter_map(|event| Conflict::new(device, event));
        conflicts.for_each(|conflict| self.conflict(&conflict));
        self.heard(device, &packets);
        more
    }

    fn kernel_events(&mut self, kernel: &mut KernelEvents, poll: &Poll) {
        let mut found = Vec::new();
        if let Err(e) = kernel.drain(|event| found.push(event)) {
            tracing::error!("events of rtnetlink: {e}");
        }
        for event in found {
            match event {
                events::Event::Neighbour(n) => self.neighbour(&n),
                events::Event::NeighbourGone(n) => self.neighbour_gone(&n),
                events::Event::Address(a) => {
                    let usable = self.mirror.has(a.ifindex, a.address);
                    self.mirror.set_address(a);
                    if !usable {
                        self.spoken_from(&a);
                    }
                    self.kernel_verdict(&a);
                    self.tell_host_addresses();
                    self.flush_routes_soon();
                }
                events::Event::AddressGone(a) => {
                    self.mirror.remove_address(&a);
                    self.tell_host_addresses();
                    self.flush_routes_soon();
                }
                events::Event::Routes => self.flush_routes_soon(),
                events::Event::Link(link) => self.link_changed(link, poll),
                events::Event::LinkGone(ifindex) => self.link_gone(ifindex),
                events::Event::Overrun => self.look_again(poll),
            }
        }
    }

    /// Events were lost.
    fn look_again(&mut self, poll: &Poll) {
        tracing::warn!("events of rtnetlink were lost: looking at everything again");
        if let Err(e) = self.mirror.fill(&mut self.netlink) {
            tracing::error!("reading the kernel's addresses and neighbours: {e}");
        }
        self.kernel_verdicts();
        self.tell_host_addresses();
        match self.netlink.links() {
            Ok(links) => {
                let gone = |d: &super::device::Device| {
                    let index = d.live.as_ref()?.link.ifindex;
                    links.iter().all(|l| l.ifindex != index).then_some(index)
                };
                let gone: Vec<u32> = self.devices.iter().filter_map(gone).collect();
                gone.into_iter().for_each(|index| self.link_gone(index));
                links.into_iter().for_each(|link| self.link_changed(link, poll));
            }
            Err(e) => tracing::error!("reading the kernel's links: {e}"),
        }
        self.flush_routes_soon();
    }

    fn link_changed(&mut self, link: crate::netlink::link::Link, poll: &Poll) {
        if let Some(index) = self.device_by_ifindex(link.ifindex) {
            let Some(live) = &mut self.devices[usize::from(index)].live else { return };
            let (mac, mtu, up, ready) = (live.link.mac, live.link.mtu, live.link.up, live.link.ready());
            (live.link.up, live.link.carrier) = (link.up, link.carrier);
            if link.mac.is_some() && (mac, mtu) != (link.mac, link.mtu) {
                (live.link.mac, live.link.mtu) = (link.mac, link.mtu);
                live.demux.set_mac(live.mac());
                if let Err(e) = self.dataplane.device_changed(link.ifindex, live.mac(), link.mtu) {
                    tracing::error!("telling the workers of {}: {e}", link.name);
                }
                self.flush_routes_soon();
            }
            if up != link.up {
                self.flush_routes_soon();
            }
            match (ready, link.ready()) {
                (true, false) => self.link_lost(index),
                (false, true) => self.link_ready(index),
                (true, true) if link.mac.is_some() && mac != link.mac => self.announce_device(index),
                _ => {}
            }
        } else if let Some(index) =
            self.devices.iter().position(|d| d.live.is_none() && d.config.name == link.name)
            && let Err(e) = self.device_back(index, poll)
        {
            tracing::warn!("{} is back, but: {e}", link.name);
            self.devices[index].live = None;
        }
    }

    fn link_gone(&mut self, ifindex: u32) {
        let Some(index) = self.device_by_ifindex(ifindex) else { return };
        let device = &mut self.devices[usize::from(index)];
        tracing::warn!("{} is gone", device.config.name);
        let Some(mut live) = device.live.take() else { return };
        self.groups_gone(index, ifindex);
        self.unconfine_device(ifindex);
        if let Err(e) = self.dataplane.remove_device(ifindex) {
            tracing::error!("taking {} from the workers: {e}", live.link.name);
        }
        // The kernel has detached the program; the pin goes.
        if let Err(e) = live.demux.detach() {
            tracing::debug!("detaching from {}: {e}", live.link.name);
        }
        // The kernel has taken the addresses, but not the prefixes, which are routes of `lo`.
        self.remove_local_routes(index, ifindex);
        self.forget_routes(ifindex);
        self.link_lost(index);
        self.flush_routes_soon();
    }

    /// An interface that was gone is there again.
    fn device_back(&mut self, index: usize, poll: &Poll) -> Result<(), Refused> {
        let config = self.devices[index].config.clone();
        self.devices[index].live = Some(device::load(&mut self.netlink, &config, &self.config.limits)?);
        let number = u16::try_from(index).unwrap_or(u16::MAX);
        self.doubt(number);
        let slots: Vec<_> = self.registry.iter().map(|(slot, c)| (slot, c.addresses.clone())).collect();
        for (slot, addresses) in slots {
            self.set_policy(slot)?;
            for owned in addresses.iter().filter(|o| o.realm.device == number) {
                self.install(slot, owned)?;
            }
        }
        self.attach_device(index)?;
        if let Some(ifindex) = self.devices[index].live.as_ref().map(|l| l.link.ifindex) {
            self.confine_device(ifindex)?;
        }
        self.take_word(index)?;
        self.reopen_ports(number)?;
        self.groups_back(number);
        self.watch_ring(poll, index)?;
        if self.devices[index].live.as_ref().is_some_and(|live| live.link.ready()) {
            self.link_ready(number);
        }
        self.flush_routes_soon();
        Ok(())
    }
}

/// A number that another run of the daemon will not have.
fn run_number() -> io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    // JSON numbers above 2^53 do not survive every reader.
    Ok(u64::from_ne_bytes(bytes) >> 11)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_a_line_of_help() {
        let text = counter_help();
        for name in afnet_bpf::Counter::all()
            .map(afnet_bpf::Counter::name)
            .chain(afnet_dataplane::Counter::ALL.iter().map(|c| c.name()))
        {
            let line = text.lines().find(|l| l.split_whitespace().next() == Some(name));
            assert!(line.is_some_and(|l| l.split_whitespace().count() > 2), "{name}");
        }
    }
}
