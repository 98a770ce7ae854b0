//! A daemon on a bed, under an instance name of its own, and the CLI and control socket against it.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use afnet_abi::{
    ABI_VERSION,
    control::{AddressSpec, Answer, EndpointKind, Refusal, Reply, Request},
    vlan::Vlan,
};

use afnet_tenant::{AttachOptions, Endpoint};

use crate::{
    bed::{Bed, DEVICE},
    netns::{Netns, unique},
    process::Process,
    wait,
};

/// A running (or stopped, or killed) afnetd. Dropping it kills the daemon and removes what it left.
#[derive(Debug)]
pub struct Afnetd<'a> {
    ns: &'a Netns,
    instance: String,
    arguments: Vec<String>,
    before: Surroundings,
    process: Option<Process>,
}

impl<'a> Afnetd<'a> {
    /// Starts a daemon on the bed's device and waits until it answers.
    #[track_caller]
    pub fn start(bed: &'a Bed) -> Self {
        Self::start_with(&bed.host, &["--device", DEVICE])
    }

    /// Starts a daemon with these arguments (beside `--instance`) and waits until it answers. It uses addresses at once:
    /// asking other hosts for them would take seconds.
    #[track_caller]
    pub fn start_with(ns: &'a Netns, arguments: &[&str]) -> Self {
        Self::start_asking(ns, &[arguments, &["--no-dad"]].concat())
    }

    /// As [`Self::start_with`], but it asks other hosts whether they have an address before it uses it.
    #[track_caller]
    pub fn start_asking(ns: &'a Netns, arguments: &[&str]) -> Self {
        let mut daemon = Self {
            ns,
            instance: format!("t{}-{}", std::process::id(), unique()),
            arguments: arguments.iter().map(|&argument| argument.into()).collect(),
            before: Surroundings::look(ns),
            process: None,
        };
        daemon.restart();
        daemon
    }

    /// Starts it again with the same instance and arguments, after [`Self::kill`] or [`Self::stop`].
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "afnetd runs already");
        let mut command = self.ns.command(binary("afnetd"));
        command.args(["--instance", &self.instance]).args(&self.arguments);
        let process = self.process.insert(Process::spawn(&mut command));
        let ready = wait::within(wait::PATIENCE, || {
            process
                .try_wait()
                .is_some()
                .then_some(false)
                .or_else(|| Connection::open_path(&socket_path(&self.instance)).is_ok().then_some(true))
        });
        assert!(ready == Some(true), "afnetd is not ready:\n{}", process.output());
    }

    /// As [`Self::restart`], with other arguments.
    #[track_caller]
    pub fn restart_with(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&argument| argument.into()).collect();
        self.restart();
    }

    /// The instance's name.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The namespace that it runs in.
    pub fn netns(&self) -> &'a Netns {
        self.ns
    }

    /// The control socket.
    pub fn socket_path(&self) -> PathBuf {
        socket_path(&self.instance)
    }

    /// The process.
    ///
    /// # Panics
    /// If it is not running.
    #[track_caller]
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("afnetd does not run")
    }

    /// SIGTERM; then nothing of it may be left in the namespace or the file systems, and its log must account
    /// for every UMEM frame. Returns the log.
    #[track_caller]
    pub fn stop(&mut self) -> String {
        let mut process = self.process.take().expect("afnetd does not run");
        process.terminate();
        let log = process.output();
        assert!(log.contains("frame audit: 0 lost"), "UMEM frames are missing\n{log}");
        let left: Vec<_> = self.directories().into_iter().filter(|path| path.exists()).collect();
        assert!(left.is_empty(), "afnetd left {left:?}\n{log}");
        self.before.assert_same(&Surroundings::look(self.ns), &log);
        log
    }

    /// SIGKILL.
    #[track_caller]
    pub fn kill(&mut self) {
        self.process.take().expect("afnetd does not run").kill();
    }

    /// Runs `afnet` with a command line (split at white space) against this daemon.
    #[track_caller]
    pub fn afnet(&self, line: &str) -> Output {
        self.ns
            .command(binary("afnet"))
            .args(["--instance", &self.instance])
            .args(line.split_whitespace())
            .output()
            .expect("start afnet")
    }

    /// As [`Self::afnet`], which must succeed; returns what it printed.
    #[track_caller]
    pub fn ok(&self, line: &str) -> String {
        let output = self.afnet(line);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "afnet {line}: {}\n{}", output.status, text(&output.stderr));
        text(&output.stdout)
    }

    /// As [`Self::afnet`], which must fail; returns its standard error.
    #[track_caller]
    pub fn fails(&self, line: &str) -> String {
        let output = self.afnet(line);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success(),
            "afnet {line} succeeded:\n{}",
            String::from_utf8_lossy(&output.stdout)
        );
        assert!(!error.trim().is_empty(), "afnet {line} failed without a word");
        error
    }

    /// `afnet -j LINE` as JSON.
    #[track_caller]
    pub fn json(&self, line: &str) -> serde_json::Value {
        let text = self.ok(&format!("-j {line}"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("afnet -j {line}: {error}\n{text}"))
    }

    /// A new connection to the control socket, after the greeting.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        Connection::open_path(&self.socket_path()).expect("connect to afnetd")
    }

    /// One request over a connection of its own; it must be granted.
    #[track_caller]
    pub fn request(&self, request: &Request) -> Answer {
        self.connect().request(request).unwrap_or_else(|refusal| panic!("{request:?}: {refusal:?}"))
    }

    /// Adds a compartment with these addresses (`ADDR/LEN`) in the device's untagged realm.
    #[track_caller]
    pub fn add_compartment(&self, name: &str, addresses: &[&str]) {
        self.request(&Request::Add { name: name.into(), policy: Default::default() });
        for address in addresses {
            self.add_address(name, address, |_| ());
        }
    }

    /// Gives an address to a compartment; `change` may alter the realm and flags.
    #[track_caller]
    pub fn add_address(&self, name: &str, address: &str, change: impl FnOnce(&mut AddressSpec)) {
        let mut spec = spec(address);
        change(&mut spec);
        self.request(&Request::AddrAdd { address: spec, name: name.into() });
    }

    /// All counters of a device, a worker or a compartment that are not zero. Names of the three differ.
    #[track_caller]
    pub fn counters(&self, of: &str) -> BTreeMap<String, u64> {
        let Answer::Stats(stats) = self.request(&Request::Stats { name: None }) else {
            panic!("not the answer to stats")
        };
        let all = [stats.devices, stats.workers, stats.compartments].concat();
        let of: Vec<_> = all.into_iter().filter(|counters| counters.name == of).collect();
        of.into_iter().flat_map(|of| of.counters).map(|counter| (counter.name, counter.value)).collect()
    }

    /// One counter, 0 if it is absent.
    #[track_caller]
    pub fn counter(&self, of: &str, name: &str) -> u64 {
        self.counters(of).get(name).copied().unwrap_or(0)
    }

    /// Attaches to a compartment, from the daemon's namespace, by name (as root may).
    #[track_caller]
    pub fn attach(&self, compartment: &str, kind: EndpointKind) -> Endpoint {
        let options = AttachOptions {
            instance: Some(self.instance.clone()),
            compartment: Some(compartment.into()),
            kind,
            ..AttachOptions::default()
        };
        let mut endpoint =
            self.ns.enter(|| Endpoint::attach(&options)).unwrap_or_else(|error| panic!("attach: {error}"));
        endpoint.set_timeout(Some(wait::PATIENCE));
        endpoint
    }

    /// As [`Self::attach`], a `udp` endpoint with one port claimed.
    #[track_caller]
    pub fn claim(&self, compartment: &str, port: u16) -> Endpoint {
        let mut endpoint = self.attach(compartment, EndpointKind::Udp);
        self.ns.enter(|| endpoint.claim(port)).unwrap_or_else(|error| panic!("claim {port}: {error}"));
        endpoint
    }

    /// The echo tenant, a process in the compartment's cgroup, once it serves.
    #[track_caller]
    pub fn echo(&self, compartment: &str, port: u16) -> Process {
        let mut command = self.ns.command(binary("afnet"));
        command.args(["--instance", &self.instance, "exec", compartment, "--"]).arg(binary("examples/echo"));
        let mut process =
            Process::spawn(command.args(["--instance", &self.instance, "--port", &port.to_string()]));
        process.wait_for_output("ready:");
        process
    }

    /// Every directory that the instance may make.
    fn directories(&self) -> Vec<PathBuf> {
        let name = format!("afnet-{}", self.instance);
        let roots = ["/run", "/sys/fs/bpf", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
        roots.iter().map(|root| Path::new(root).join(&name)).collect()
    }
}

impl Drop for Afnetd<'_> {
    fn drop(&mut self) {
        self.process = None;
        for directory in self.directories() {
            remove_tree(&directory);
        }
    }
}

/// An address in the untagged realm of the bed's device, from `ADDR/LEN`.
#[track_caller]
pub fn spec(address: &str) -> AddressSpec {
    let (address, prefix_len) = address.split_once('/').expect("ADDR/LEN");
    AddressSpec {
        address: address.parse().expect("an address"),
        prefix_len: prefix_len.parse().expect("a prefix length"),
        dev: DEVICE.into(),
        vlan: Vlan::NONE,
        delegated: false,
        fast_only: false,
        defend: None,
        nodad: false,
    }
}

/// A connection to the control socket.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<UnixStream>,
}

impl Connection {
    /// Connects and greets.
    pub fn open_path(path: &Path) -> Result<Self, String> {
        let stream = UnixStream::connect(path).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(wait::PATIENCE)).map_err(|error| error.to_string())?;
        let mut connection = Self { stream: BufReader::new(stream) };
        match connection.request(&Request::Hello { version: ABI_VERSION }) {
            Ok(Answer::Hello { .. }) => Ok(connection),
            other => Err(format!("{other:?}")),
        }
    }

    /// Sends a request and waits for the reply. File descriptors that come along are closed.
    pub fn request(&mut self, request: &Request) -> Result<Answer, Refusal> {
        let line = serde_json::to_string(request).expect("a request is JSON");
        self.send(line.as_bytes());
        match serde_json::from_str(&self.line()).expect("a reply") {
            Reply::Ok(answer) => Ok(answer),
            Reply::Error(refusal) => Err(refusal),
        }
    }

    /// Sends a line as it is.
    pub fn send(&mut self, line: &[u8]) {
        // A daemon that has closed shows by its reply, or by the want of one.
        let _ = self.stream.get_mut().write_all(&[line, b"\n"].concat());
    }

    /// The next line; empty at the end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        let _ = self.stream.read_line(&mut line);
        line
    }
}

/// What a daemon must leave as it found it.
#[derive(Debug, PartialEq)]
struct Surroundings {
    /// Links with their XDP programs, by `ip -d link`; counters and indices of peers left out.
    links: Vec<String>,
    addresses: String,
    routes: String,
    rules: String,
    qdiscs: String,
}

impl Surroundings {
    fn look(ns: &Netns) -> Self {
        let links: serde_json::Value = serde_json::from_str(&ns.ip("-j -d link show")).expect("JSON of ip");
        let links = links.as_array().expect("a list of links").iter();
        let text = |value: &serde_json::Value| value.to_string();
        Self {
            links: links
                .map(|link| {
                    [&link["ifname"], &link["address"], &link["xdp"], &link["mtu"], &link["promiscuity"]]
                        .map(text)
                        .join(" ")
                })
                .collect(),
            addresses: ns.ip("-br addr show"),
            routes: ns.ip("route show table all") + &ns.ip("-6 route show table all"),
            rules: ns.ip("rule show") + &ns.ip("-6 rule show"),
            qdiscs: ns.run("tc qdisc show"),
        }
    }

    #[track_caller]
    fn assert_same(&self, after: &Self, log: &str) {
        assert!(self == after, "afnetd left traces\nbefore: {self:#?}\nafter: {after:#?}\n{log}");
    }
}

/// Runtime directory's socket (the default instance is never used by tests).
fn socket_path(instance: &str) -> PathBuf {
    PathBuf::from(format!("/run/afnet-{instance}/afnetd.sock"))
}

/// Path of a binary or, as `examples/NAME`, of an example of the workspace: built now if need be, in the
/// profile of this test, or taken from `AFNET_BIN_DIR`. A program that is no test (the bench) takes what lies beside it.
#[track_caller]
pub fn binary(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| match env::var_os("AFNET_BIN_DIR") {
        Some(directory) => directory.into(),
        None => build(),
    });
    let path = directory.join(name);
    assert!(path.exists(), "{} does not exist", path.display());
    path
}

/// Builds what tests run, so that they never see a stale daemon, and returns the directory.
fn build() -> PathBuf {
    // .../target/debug/deps/TEST
    let test = env::current_exe().expect("path of this program");
    let beside = test.parent().expect("a directory");
    if !beside.ends_with("deps") {
        return beside.into();
    }
    let directory = beside.parent().expect("target directory of this profile").to_path_buf();
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let status = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["build", "--quiet", "--profile", profile, "-p", "afnet-control", "-p", "afnet-tenant"])
        .args(["-p", "afnet-shim", "--lib", "--bins", "--examples", "--target-dir"])
        .arg(directory.parent().expect("target directory"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("start cargo");
    assert!(status.success(), "cargo could not build the daemon");
    directory
}

/// Removes a directory of files, pins or cgroups (whose files vanish with it).
fn remove_tree(path: &Path) {
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => remove_tree(&entry.path()),
            _ => drop(fs::remove_file(entry.path())),
        }
    }
    let _ = fs::remove_dir(path);
}
