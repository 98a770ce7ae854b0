//! Loading, attaching and taking over the programs of the kernel path, and what one socket of a compartment sees, without
//! a daemon. Needs root. (Conformance with the kernel: `tests/tests/confine`.)

mod confined;

use std::{fs, process::Command};

use afnet_bpf::{Confined, Error, Refusal};
use confined::{Bed, OWN};

/// Runs Python in the compartment and returns what it printed.
fn python(bed: &Bed, script: &str) -> String {
    let output = bed.python(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
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
    let mut first = bed.load(1);
    assert_eq!(python(&bed, "print('free')"), "free", "nothing is attached yet");
    bed.attach(&mut first);
    let expected = format!("0.0.0.0 8080\n{}", libc::EADDRNOTAVAIL);
    assert_eq!(python(&bed, BINDS), expected);
    let refused = first.refusals(1).unwrap();
    assert_eq!(refused[Refusal::RefusedBind as usize], 1, "{refused:?}");
    drop(first);
    assert_eq!(python(&bed, BINDS), expected, "without a loader");
    let mut second = bed.load(1);
    bed.attach(&mut second);
    assert_eq!(python(&bed, BINDS), expected, "with the next one");
    let links = || fs::read_dir(&bed.pins).map(Iterator::count).unwrap_or(0);
    assert!(links() > 20);
    second.detach().unwrap();
    assert_eq!(links(), 0, "pins are left");
    let unconfined = Command::new("ip").args(["-n", bed.ns.name(), "link", "show", "lo"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&unconfined.stdout).contains("qdisc clsact"));
    let free = "import socket; s = socket.socket(); s.bind(('192.0.2.11', 8080)); print('free')";
    assert_eq!(python(&bed, free), "free");
}

#[test]
fn slots_have_bounds() {
    let bed = Bed::new("slots");
    let mut confinement = bed.load(1);
    for slot in [0, 16, u32::MAX] {
        let result = confinement.set_compartment(slot, &Confined::default());
        assert!(matches!(result, Err(Error::Slot(s)) if s == slot));
        assert!(confinement.insert_address(OWN.parse().unwrap(), slot).is_err());
        assert!(confinement.insert_prefix("10.0.0.0".parse().unwrap(), 8, slot).is_err());
    }
    confinement.clear_compartment(1).unwrap();
    assert_eq!(confinement.refusals(1).unwrap(), vec![0; Refusal::COUNT]);
}
