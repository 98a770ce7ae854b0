//! Loading, attaching and taking over the programs of the kernel path, and what one socket of a compartment sees, without
//! a daemon. Needs root. (Conformance with the kernel: `tests/tests/confine`.)

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

use afnet_bpf::{Confined, Confinement, ConfinementConfig, Error, Refusal, Source};
use afnet_tests::netns::{Netns, unique};

const OWN: &str = "192.0.2.10";
const OTHERS: &str = "192.0.2.11";

/// A namespace with two addresses, a cgroup with a compartment's below it, and a place for pins.
struct Bed {
    ns: Netns,
    cgroup: PathBuf,
    pins: PathBuf,
}

impl Bed {
    fn new(label: &str) -> Self {
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

    fn load(&self) -> Confinement {
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
        let source = Source { addr: OWN.parse().unwrap(), prefix_len: 24, ifindex: 1 };
        confinement
            .set_compartment(1, &Confined { cgroup, sources: vec![source], ..Confined::default() })
            .unwrap();
        confinement.insert_address(OWN.parse().unwrap(), 1).unwrap();
        confinement.insert_address(OTHERS.parse().unwrap(), 2).unwrap();
        confinement
    }

    fn attach(&self, confinement: &mut Confinement) {
        let open = |path: &Path| File::open(path).unwrap();
        let (base, root) = (open(&self.cgroup), open(self.cgroup.parent().unwrap()));
        let netns = open(&self.ns.path());
        self.ns.enter(|| confinement.attach(&base, &root, &netns)).unwrap();
    }

    /// Runs Python in the compartment and returns what it printed.
    fn python(&self, script: &str) -> String {
        let enter = format!("echo $$ > {}/one/cgroup.procs && exec python3 -c \"$0\"", self.cgroup.display());
        let output = self.ns.command("sh").args(["-c", &enter, script]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.pins);
        let _ = fs::remove_dir(self.cgroup.join("one"));
        let _ = fs::remove_dir(&self.cgroup);
    }
}

/// Binds to all addresses and to somebody else's; the names and the error.
const BINDS: &str = "
import socket
s = socket.socket(); s.bind(('0.0.0.0', 8080)); print(*s.getsockname())
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try: u.bind(('192.0.2.11', 8080))
except OSError as e: print(e.errno)
";

#[test]
fn a_killed_loaders_programs_go_on_and_are_taken_over() {
    let bed = Bed::new("confine");
    let mut first = bed.load();
    assert_eq!(bed.python("print('free')"), "free", "nothing is attached yet");
    bed.attach(&mut first);
    let expected = format!("0.0.0.0 8080\n{}", libc::EADDRNOTAVAIL);
    assert_eq!(bed.python(BINDS), expected);
    let refused = first.refusals(1).unwrap();
    assert_eq!(refused[Refusal::RefusedBind as usize], 1, "{refused:?}");
    drop(first);
    assert_eq!(bed.python(BINDS), expected, "without a loader");
    let mut second = bed.load();
    bed.attach(&mut second);
    assert_eq!(bed.python(BINDS), expected, "with the next one");
    let links = || fs::read_dir(&bed.pins).map(Iterator::count).unwrap_or(0);
    assert!(links() > 20);
    second.detach().unwrap();
    assert_eq!(links(), 0, "pins are left");
    let unconfined = Command::new("ip").args(["-n", bed.ns.name(), "link", "show", "lo"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&unconfined.stdout).contains("qdisc clsact"));
    let free = "import socket; s = socket.socket(); s.bind(('192.0.2.11', 8080)); print('free')";
    assert_eq!(bed.python(free), "free");
}

#[test]
fn slots_have_bounds() {
    let bed = Bed::new("slots");
    let mut confinement = bed.load();
    for slot in [0, 16, u32::MAX] {
        let result = confinement.set_compartment(slot, &Confined::default());
        assert!(matches!(result, Err(Error::Slot(s)) if s == slot));
        assert!(confinement.insert_address(OWN.parse().unwrap(), slot).is_err());
        assert!(confinement.insert_prefix("10.0.0.0".parse().unwrap(), 8, slot).is_err());
    }
    confinement.clear_compartment(1).unwrap();
    assert_eq!(confinement.refusals(1).unwrap(), vec![0; Refusal::COUNT]);
}
