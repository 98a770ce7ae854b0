//! Where the servers are: each place has a bed of its own, a client in the bed's peer namespace, and the same servers.
//!
//! ```text
//!                  client (CPU 0)                                        servers (CPU 1)
//!  host            peer0 -> dev0, XDP_PASS -> stack ------------------->  sockets of the host
//!  host-no-xdp     peer0 -> dev0 -> stack ----------------------------->  sockets of the host
//!  host-by-afnet   peer0 -> dev0, afnet's XDP program -> stack -------->  sockets of the host, a compartment beside them
//!  compartment     peer0 -> dev0, afnet's XDP program -> stack -------->  sockets of a compartment (`afnet exec`)
//!  shim            the same under the socket shim: UDP by rings
//!  shim-busy       the same, sockets look at their rings for 50 us before they sleep
//!  netns+bridge    peer0 -> dev0, XDP_PASS -> br0 -> veth -> stack ---->  sockets of a namespace
//!  netns+routing   peer0 -> dev0, XDP_PASS -> stack -> veth -> stack -->  sockets of a namespace
//! ```
//!
//! The pair does what every network card and its driver do (GRO, GSO in the kernel; frames stay as on a wire), which the
//! beds of tests switch off: a stream then meets hooks and checks once for many segments.
//!
//! A veth pair gets slower by having an XDP program at all, which is the test bed's cost and no network card's: so the
//! places that are compared have one, and `host-no-xdp` shows what it costs here.

use std::{
    env, fs,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, DEVICE, HOST_V4, PEER},
    netns::Netns,
    process::Process,
    shim, wait, xdp_pass,
};
use anyhow::{Context as _, Result, ensure};

use super::{
    crowd,
    measure::{DNS, HTTP, IPERF, MEMCACHED, QUIC, SOCKPERF_TCP, SOCKPERF_UDP, quic_program},
};
use crate::sink::{LOAD_CPU, SINK_CPU, Sink};

/// A compartment's address, and that of a namespace behind the bridge.
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Of a namespace behind routing, and the host's end.
const ROUTED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The compartment.
const NAME: &str = "c0";

/// A way to give a server its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The host itself.
    Host,
    /// Without an XDP program on its device.
    HostNoXdp,
    /// The host itself, beside a compartment.
    HostByAfnet,
    /// A compartment.
    Compartment,
    /// A compartment, under the socket shim.
    Shim,
    /// The same, looking at the rings before sleeping.
    ShimBusy,
    /// A namespace behind a bridge.
    Bridge,
    /// A namespace behind routing.
    Routing,
}

impl Place {
    /// All, in the order of the report.
    pub const ALL: [Self; 6] =
        [Self::Host, Self::Compartment, Self::Bridge, Self::Routing, Self::HostByAfnet, Self::HostNoXdp];

    /// Those that are compared with the shim, in the order of the report.
    pub const WITH_SHIM: [Self; 5] =
        [Self::Host, Self::Compartment, Self::Shim, Self::ShimBusy, Self::Bridge];

    /// Whether servers are in a compartment.
    fn is_confined(self) -> bool {
        matches!(self, Self::Compartment | Self::Shim | Self::ShimBusy)
    }

    /// Name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::HostNoXdp => "host-no-xdp",
            Self::HostByAfnet => "host-by-afnet",
            Self::Compartment => "compartment",
            Self::Shim => "shim",
            Self::ShimBusy => "shim-busy",
            Self::Bridge => "netns+bridge",
            Self::Routing => "netns+routing",
        }
    }
}

/// A place with its servers.
#[derive(Debug)]
pub struct Site<'a> {
    /// Which.
    pub place: Place,
    /// Where clients find the servers.
    pub server: Ipv4Addr,
    // Dropped in this order: servers, then where they are.
    programs: Vec<Process>,
    servers: Option<Sink>,
    files: Option<Files>,
    crowd: Option<Sink>,
    container: Option<Netns>,
    daemon: Option<Afnetd<'a>>,
    bed: &'a Bed,
}

impl<'a> Site<'a> {
    /// Sets a place up and starts the servers there: those of the kernel path's measures, or of `udp` ones.
    ///
    /// # Errors
    /// If one does not start.
    pub fn set_up(place: Place, bed: &'a Bed, udp: bool) -> Result<Self> {
        batching(bed);
        let daemon = (place.is_confined() || place == Place::HostByAfnet).then(|| {
            let daemon = Afnetd::start(bed);
            daemon.add_compartment(NAME, &[&format!("{OWN}/24")]);
            daemon
        });
        if matches!(place, Place::Host | Place::Bridge | Place::Routing) {
            let ifindex = bed.host.ifindex(DEVICE);
            bed.host.enter(|| xdp_pass::attach(ifindex)).context("attach an XDP program that passes all")?;
        }
        let (container, server) = match place {
            Place::Bridge => (Some(bridged(bed)), OWN),
            Place::Routing => (Some(routed(bed)), ROUTED),
            _ if place.is_confined() => (None, OWN),
            _ => (None, HOST_V4.parse()?),
        };
        let mut site = Self::new(place, server, bed);
        (site.container, site.daemon) = (container, daemon);
        site.serve()
            .and_then(|()| site.start(udp))
            .with_context(|| format!("servers of {}", place.name()))?;
        Ok(site)
    }

    /// A compartment with the bench's own server alone, one of `crowd` that hold the same ports.
    ///
    /// # Errors
    /// If something does not start; or if compartments do not have their ports for themselves.
    pub fn among(crowd: u32, bed: &'a Bed) -> Result<Self> {
        batching(bed);
        let mut site = Self::new(Place::Compartment, OWN, bed);
        let daemon = site.daemon.insert(Afnetd::start(bed));
        daemon.add_compartment(NAME, &[&format!("{OWN}/24")]);
        site.crowd = Some(crowd::gather(daemon, crowd.saturating_sub(1))?);
        site.serve()?;
        Ok(site)
    }

    fn new(place: Place, server: Ipv4Addr, bed: &'a Bed) -> Self {
        let (programs, servers, files, crowd) = (Vec::new(), None, None, None);
        Self { place, server, programs, servers, files, crowd, container: None, daemon: None, bed }
    }

    /// Starts the bench's own server.
    fn serve(&mut self) -> Result<()> {
        let mut own = self.command(env::current_exe()?);
        let mut servers = Sink::spawn(own.arg("serve"))?;
        servers.count().context("the bench's own server")?;
        self.servers = Some(servers);
        Ok(())
    }

    /// Starts the third-party servers.
    fn start(&mut self, udp: bool) -> Result<()> {
        let files = Files::new(self.place)?;
        // iperf3's socket for both families would connect to its client as an IPv6 one.
        let iperf = ["-s", "-p", &IPERF.to_string(), "-B", &self.server.to_string()].map(String::from);
        let mut programs: Vec<(&str, Vec<String>, Option<u16>)> =
            vec![("iperf3", iperf.to_vec(), Some(IPERF))];
        if udp {
            let memcached = ["-u", "root", "-l", "0.0.0.0", "-t", "1"].map(String::from);
            let port = ["-p", &MEMCACHED.to_string(), "-U", &MEMCACHED.to_string()].map(String::from);
            programs.push(("memcached", [memcached.as_slice(), &port].concat(), Some(MEMCACHED)));
            let unbound = vec!["-d".into(), "-c".into(), files.unbound(self.server)?.display().to_string()];
            programs.push(("unbound", unbound, Some(DNS)));
        } else {
            let nginx = vec!["-c".into(), files.nginx()?.display().to_string()];
            programs.push(("nginx", nginx, Some(HTTP)));
        }
        self.files = Some(files);
        for (port, tcp) in [(SOCKPERF_UDP, false), (SOCKPERF_TCP, true)] {
            let mut arguments = vec!["server".to_owned(), "-p".to_owned(), port.to_string()];
            arguments.extend(tcp.then(|| "--tcp".to_owned()));
            programs.push(("sockperf", arguments, tcp.then_some(port)));
        }
        for (program, arguments, port) in programs.into_iter().filter(|(program, ..)| installed(program)) {
            let mut process = Process::spawn(self.command(program).args(arguments));
            if let Some(port) = port {
                let up = wait::within(wait::PATIENCE, || {
                    let ended = process.try_wait().is_some();
                    let up = self.bed.peer.enter(|| TcpStream::connect((self.server, port)).is_ok());
                    (up || ended).then_some(up)
                });
                ensure!(up == Some(true), "{program} does not serve: {}", process.output());
            }
            self.programs.push(process);
        }
        let quic = quic_program()?;
        if udp && quic.exists() {
            let directory = self.directory().context("a directory")?.to_owned();
            let process =
                Process::spawn(self.command(quic).args(["serve", &QUIC.to_string()]).arg(&directory));
            let up = wait::within(wait::PATIENCE, || directory.join("certificate").exists().then_some(()));
            ensure!(up.is_some(), "quinn's server does not serve: {}", process.output());
            self.programs.push(process);
        }
        Ok(())
    }

    /// A command that will run there, on the servers' CPU.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let home = self.container.as_ref().unwrap_or(&self.bed.host);
        let mut command = match &self.daemon {
            Some(daemon) if self.place == Place::Shim => shim::command(daemon, NAME, &[]),
            Some(daemon) if self.place == Place::ShimBusy => {
                shim::command(daemon, NAME, &[("AFNET_SPIN_US", "50")])
            }
            Some(daemon) if self.place == Place::Compartment => shim::plain_command(daemon, NAME),
            _ => home.command("env"),
        };
        command.args(["taskset", "-c", &SINK_CPU.to_string()]).arg(program.as_ref());
        command
    }

    /// A command of the client's, on its CPU.
    pub fn client(&self, program: &str) -> Command {
        let mut command = self.bed.peer.command("taskset");
        command.args(["-c", &LOAD_CPU.to_string(), program]);
        command
    }

    /// Where the servers' files are.
    pub fn directory(&self) -> Option<&Path> {
        self.files.as_ref().map(|files| &*files.0)
    }

    /// Runs `body` as the client, with the counter of datagrams.
    pub fn as_client<T: Send>(
        &mut self,
        body: impl FnOnce(Ipv4Addr, &mut Sink) -> Result<T> + Send,
    ) -> Result<T> {
        let servers = self.servers.as_mut().context("servers")?;
        self.bed.peer.enter(|| body(self.server, servers))
    }
}

/// GRO and GSO on both ends.
fn batching(bed: &Bed) {
    for (ns, device) in [(&bed.host, DEVICE), (&bed.peer, PEER)] {
        ns.run(&format!("ethtool -K {device} gro on gso on"));
    }
}

/// Whether a program is there.
pub fn installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(["/usr/sbin".into()]).any(|directory| directory.join(program).exists())
}

/// A namespace whose device is a port of a bridge, as the host's device is.
fn bridged(bed: &Bed) -> Netns {
    let (host, container) = (&bed.host, Netns::new("tenant"));
    host.ip("link add br0 type bridge");
    host.ip(&format!("link add veth0 type veth peer eth0 netns {}", container.name()));
    for port in ["veth0", DEVICE] {
        host.ip(&format!("link set {port} master br0 up"));
    }
    host.ip("link set br0 up");
    container.ip(&format!("addr add {OWN}/24 dev eth0"));
    container.ip("link set eth0 up");
    container
}

/// A namespace that the host routes to.
fn routed(bed: &Bed) -> Netns {
    let (host, container) = (&bed.host, Netns::new("tenant"));
    host.ip(&format!("link add veth0 type veth peer eth0 netns {}", container.name()));
    host.ip(&format!("addr add {ROUTER}/24 dev veth0"));
    host.ip("link set veth0 up");
    host.sysctl("ipv4/ip_forward", "1");
    container.ip(&format!("addr add {ROUTED}/24 dev eth0"));
    container.ip("link set eth0 up");
    container.ip(&format!("route add default via {ROUTER}"));
    bed.peer.ip(&format!("route add {ROUTED} via {HOST_V4}"));
    container
}

/// A directory of the servers' files that goes with its guard.
#[derive(Debug)]
struct Files(PathBuf);

impl Files {
    fn new(place: Place) -> Result<Self> {
        let directory = env::temp_dir().join(format!("afnet-bench-{}-{}", std::process::id(), place.name()));
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        Ok(Self(directory))
    }

    /// unbound's configuration, a zone of its own in one thread; and queries for it.
    fn unbound(&self, server: Ipv4Addr) -> Result<PathBuf> {
        let text = format!(
            "server:\n username: \"\"\n chroot: \"\"\n directory: \"{}\"\n pidfile: \"\"\n use-syslog: no\n \
             do-daemonize: no\n num-threads: 1\n interface: {server}\n access-control: 0.0.0.0/0 allow\n \
             module-config: \"iterator\"\n local-zone: \"test.\" static\n local-data: \"a.test. A 192.0.2.1\"\n\
             remote-control:\n control-enable: no\n",
            self.0.display()
        );
        let file = self.0.join("unbound.conf");
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        fs::write(self.0.join("queries"), "a.test A\n").context("write queries")?;
        Ok(file)
    }

    /// nginx's configuration: one process that answers everything with two bytes.
    fn nginx(&self) -> Result<PathBuf> {
        let directory = self.0.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("    {what}_temp_path {directory}/{what};\n"))
            .concat();
        let text = format!(
            "daemon off;\nmaster_process off;\nuser root;\npid {directory}/nginx.pid;\nerror_log stderr crit;\n\
             events {{\n    worker_connections 4096;\n}}\n\
             http {{\n{temporary}    access_log off;\n    keepalive_requests 1000000000;\n    server {{\n        \
             listen {HTTP} backlog=4096;\n        location / {{\n            return 200 \"ok\";\n        }}\n    }}\n}}\n"
        );
        let file = self.0.join("nginx.conf");
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        Ok(file)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a client to its end; its output, if it succeeded.
///
/// # Errors
/// If it fails, with what it said.
pub fn finish(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    Ok(text(&output.stdout))
}

/// Whole seconds, for programs that know no others.
pub fn whole_seconds(time: Duration) -> String {
    format!("{:.0}", time.as_secs_f64().ceil().max(1.0))
}
