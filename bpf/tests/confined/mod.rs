//! A bed for the programs of the kernel path without a daemon: a namespace, and a cgroup with a compartment's below it.

use std::{
    fs::{self, File},
    net::UdpSocket,
    os::{
        fd::{AsFd, AsRawFd},
        linux::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use afnet_bpf::{Confined, Confinement, ConfinementConfig, Source};
use afnet_tests::netns::{Netns, unique};

/// The compartment's address.
pub const OWN: &str = "192.0.2.10";
/// Of another compartment.
pub const OTHERS: &str = "192.0.2.11";

/// A namespace with two addresses, a cgroup with a compartment's below it, and a place for pins.
#[derive(Debug)]
pub struct Bed {
    /// The namespace.
    pub ns: Netns,
    /// The instance's cgroup.
    pub cgroup: PathBuf,
    /// Directory of pins.
    pub pins: PathBuf,
}

impl Bed {
    /// Both addresses are on `lo`.
    pub fn new(label: &str) -> Self {
        let ns = Netns::new(label);
        for address in [OWN, OTHERS] {
            ns.ip(&format!("addr add {address}/32 dev lo"));
        }
        let name = format!("afnet-b{}-{}", std::process::id(), unique());
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let root = roots.into_iter().find(|r| r.join("cgroup.procs").exists()).expect("a cgroup v2 tree");
        let cgroup = root.join(&name);
        fs::create_dir_all(cgroup.join("one")).unwrap();
        Self { ns, cgroup, pins: Path::new("/sys/fs/bpf").join(name) }
    }

    /// Loads the programs; the first compartment has its address at the interface.
    pub fn load(&self, ifindex: u32) -> Confinement {
        let netns_cookie = self.ns.enter(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let (mut cookie, mut len) = (0u64, 8);
            // SAFETY: the option (71: SO_NETNS_COOKIE) writes a u64, of the length that is passed.
            let answer = unsafe {
                libc::getsockopt(
                    socket.as_fd().as_raw_fd(),
                    libc::SOL_SOCKET,
                    71,
                    (&raw mut cookie).cast(),
                    &raw mut len,
                )
            };
            assert_eq!(answer, 0, "SO_NETNS_COOKIE");
            cookie
        });
        let config = ConfinementConfig {
            netns_cookie,
            compartments: 16,
            addresses: 64,
            prefixes: 16,
            pins: self.pins.clone(),
            handle: 1,
        };
        let mut confinement = Confinement::load(&config).expect("load the programs (needs root)");
        let cgroup = fs::metadata(self.cgroup.join("one")).unwrap().st_ino();
        let source = Source { addr: OWN.parse().unwrap(), prefix_len: 24, ifindex };
        confinement
            .set_compartment(1, &Confined { cgroup, sources: vec![source], ..Confined::default() })
            .unwrap();
        confinement.insert_address(OWN.parse().unwrap(), 1).unwrap();
        confinement.insert_address(OTHERS.parse().unwrap(), 2).unwrap();
        confinement
    }

    /// Attaches them, but for devices.
    pub fn attach(&self, confinement: &mut Confinement) {
        let open = |path: &Path| File::open(path).unwrap();
        let (base, root) = (open(&self.cgroup), open(self.cgroup.parent().unwrap()));
        let netns = open(&self.ns.path());
        self.ns.enter(|| confinement.attach(&base, &root, &netns)).unwrap();
    }

    /// A command that runs Python in the compartment.
    pub fn python(&self, script: &str) -> Command {
        let enter = format!("echo $$ > {}/one/cgroup.procs && exec python3 -c \"$0\"", self.cgroup.display());
        let mut command = self.ns.command("sh");
        command.args(["-c", &enter, script]);
        command
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.pins);
        let _ = fs::remove_dir(self.cgroup.join("one"));
        let _ = fs::remove_dir(&self.cgroup);
    }
}
