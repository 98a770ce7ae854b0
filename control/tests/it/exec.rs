//! `afnet exec`: who may enter, what is taken from them, and that nobody gets out.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use afnet_abi::control::{Answer, Request};
use afnet_tests::afnetd::{Afnetd, binary};
use afnet_tests::bed::Bed;

use crate::bed;

/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, SYS_CHROOT, AUDIT_WRITE.
const KEPT: &str = "00000000200405fb";
const NONE: &str = "0000000000000000";

/// What a command said, errors included.
fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// `afnet` as user and group 65534 with these supplementary groups.
pub fn as_nobody(bed: &Bed, daemon: &Afnetd<'_>, groups: &str, line: &str) -> Output {
    let mut command = bed.host.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534"]);
    match groups {
        "" => command.arg("--clear-groups"),
        groups => command.args(["--groups", groups]),
    };
    command.arg(binary("afnet")).args(["--instance", daemon.instance()]).args(line.split_whitespace());
    command.output().unwrap()
}

/// The compartment's directory, and the root of the whole tree.
fn cgroup(daemon: &Afnetd<'_>, name: &str) -> (PathBuf, PathBuf) {
    let Answer::Cgroup { path } = daemon.request(&Request::Cgroup { name: name.to_owned() }) else {
        panic!()
    };
    let path = PathBuf::from(path);
    let root = path.parent().and_then(Path::parent).unwrap().to_owned();
    (path, root)
}

/// Sets of capabilities, in order inheritable, permitted, effective, bounding, ambient.
fn capabilities(status: &str) -> Vec<String> {
    let sets = status.lines().filter(|l| l.starts_with("Cap"));
    sets.map(|l| l.split_whitespace().nth(1).unwrap().to_owned()).collect()
}

#[test]
fn root_in_a_compartment_does_not_get_out() {
    let bed = bed("escape");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24"]);
    let (_, root) = cgroup(&daemon, "a");
    let dir = tempfile::tempdir().unwrap();
    let (script, tool) = (dir.path().join("escape.py"), dir.path().join("tool"));
    fs::write(&script, include_str!("scripts/escape.py")).unwrap();
    fs::copy("/bin/true", &tool).unwrap();
    // The caller stands in the tree and holds its root open.
    let mut command = bed.host.command("sh");
    command.current_dir(&root).arg("-c").arg("exec 7<. && exec \"$@\"").arg("sh");
    command.arg(binary("afnet")).args(["--instance", daemon.instance(), "exec", "a", "--"]);
    command.args(["/usr/bin/python3"]).arg(&script).arg(dir.path()).arg(&tool);
    let output = command.output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    let tried: usize = said.trim().strip_prefix("tried ").and_then(|n| n.parse().ok()).unwrap_or_default();
    assert!(tried > 40, "something is open, or little was tried:\n{said}");
    // The caller has the tree as before.
    assert!(fs::read_dir("/sys/fs/bpf").unwrap().count() > 0);
    assert!(!root.join("afnet-escape").exists());
    daemon.stop();
}

#[test]
fn the_shim_is_preloaded_for_fast_programs() {
    let bed = bed("fast");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24"]);
    // Some library in the shim's place: this test is about finding and loading it.
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let library =
        maps.lines().find_map(|l| l.split_whitespace().nth(5).filter(|p| p.contains("/libgcc_s.so")));
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let shim = dir.path().canonicalize().unwrap().join("libafnet.so");
    fs::copy(library.expect("a library of this program"), &shim).unwrap();
    let other = dir.path().join("other.so");
    fs::copy(&shim, &other).unwrap();
    let fast = |afnet: &Path, variable: Option<&Path>, options: &[&str]| {
        let mut command = bed.host.command(afnet);
        command.args(["--instance", daemon.instance(), "exec", "--fast"]).args(options);
        command.args(["a", "--", "cat", "/proc/self/maps", "/proc/self/environ"]).env_remove("AFNET_SHIM");
        if let Some(variable) = variable {
            command.env("AFNET_SHIM", variable);
        }
        let output = command.env("LD_PRELOAD", &other).output().unwrap();
        (output.status.success(), text(&output))
    };
    for options in [&[][..], &["--user", "nobody"], &["--user", "65534:65534"]] {
        let (done, said) = fast(&binary("afnet"), Some(&shim), options);
        let loaded = |path: &Path| said.lines().any(|l| l.ends_with(path.to_str().unwrap()));
        assert!(done && loaded(&shim) && loaded(&other), "{options:?}: {said}");
        assert!(said.contains(&format!("LD_PRELOAD={}:", shim.display())), "{said}");
        assert!(said.contains(&format!("AFNET_INSTANCE={}", daemon.instance())), "{said}");
    }
    // Beside the executable, and by the layout of an installation.
    let installed = dir.path().join("bin");
    fs::create_dir(&installed).unwrap();
    let afnet = installed.join("afnet");
    fs::copy(binary("afnet"), &afnet).unwrap();
    let (done, said) = fast(&afnet, None, &[]);
    let looked = [installed.join("libafnet.so"), dir.path().join("lib/afnet/libafnet.so")];
    assert!(!done && looked.iter().all(|p| said.contains(p.to_str().unwrap())), "{said}");
    fs::create_dir_all(dir.path().join("lib/afnet")).unwrap();
    for place in looked.iter().rev() {
        fs::copy(&shim, place).unwrap();
        let (done, said) = fast(&afnet, None, &[]);
        let place = place.canonicalize().unwrap();
        assert!(done && said.contains(&format!("LD_PRELOAD={}:", place.display())), "{said}");
    }
    let (done, said) = fast(&afnet, Some(&dir.path().join("none.so")), &[]);
    assert!(!done && said.contains("none.so") && !said.contains("/usr/lib/afnet"), "{said}");
    daemon.stop();
}

#[test]
fn what_root_keeps_is_what_the_policy_says() {
    let bed = bed("caps");
    let mut daemon = Afnetd::start(&bed);
    daemon.ok("add a");
    let caps = || capabilities(&daemon.ok("exec a -- cat /proc/self/status"));
    assert_eq!(caps(), [NONE, KEPT, KEPT, KEPT, NONE]);
    daemon.ok("set a --raw-sockets");
    let raw = "00000000200425fb";
    assert_eq!(caps(), [NONE, raw, raw, raw, NONE]);
    let packet = "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)";
    let mut command = bed.host.command(binary("afnet"));
    command.args(["--instance", daemon.instance(), "exec", "a", "--", "/usr/bin/python3", "-c", packet]);
    assert!(command.status().unwrap().success());
    daemon.ok("set a --capabilities --raw-sockets=off");
    let own = fs::read_to_string("/proc/self/status").unwrap();
    assert_eq!(caps()[1..4], capabilities(&own)[1..4]);
    daemon.ok("set a --capabilities=off");
    assert_eq!(caps()[1], KEPT);
    daemon.stop();
}

#[test]
fn a_set_user_id_program_brings_nothing_back() {
    let bed = bed("suid");
    let mut daemon = Afnetd::start(&bed);
    daemon.ok("add a");
    let dir = tempfile::tempdir().unwrap();
    let cat = dir.path().join("cat");
    fs::copy("/bin/cat", &cat).unwrap();
    fs::set_permissions(&cat, fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let status = daemon.ok(&format!("exec --user 65534:65534 a -- {} /proc/self/status", cat.display()));
    assert!(status.contains("Uid:\t65534\t0\t0\t0"), "{status}");
    assert_eq!(capabilities(&status)[2..4], [KEPT, KEPT]);
    daemon.stop();
}

#[test]
fn a_file_that_demands_a_capability_starts_without() {
    let bed = bed("demand");
    let mut daemon = Afnetd::start(&bed);
    daemon.ok("add a");
    let dir = tempfile::tempdir().unwrap();
    let cat = dir.path().join("cat");
    fs::copy("/bin/cat", &cat).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // cap_net_raw=ep, as ping has it in many distributions.
    let mut attribute = [0; 20];
    (attribute[0], attribute[3], attribute[5]) = (1, 2, 0x20);
    rustix::fs::setxattr(&cat, c"security.capability", &attribute, rustix::fs::XattrFlags::empty()).unwrap();
    for (user, effective) in [("", KEPT), ("--user nobody ", NONE)] {
        let status = daemon.ok(&format!("exec {user}a -- {} /proc/self/status", cat.display()));
        assert_eq!(capabilities(&status)[2..4], [effective, KEPT]);
    }
    // Where it is to be had, the file gets it as everywhere.
    daemon.ok("set a --raw-sockets");
    let status = daemon.ok(&format!("exec --user nobody a -- {} /proc/self/status", cat.display()));
    assert_eq!(capabilities(&status)[2], "0000000000002000");
    assert!(daemon.ok("exec a -- ping -V").contains("ping"));
    daemon.stop();
}

#[test]
fn a_program_runs_as_the_user_that_was_said() {
    let bed = bed("user");
    let mut daemon = Afnetd::start(&bed);
    daemon.ok("add a");
    let ids = |user: &str| daemon.ok(&format!("exec --user {user} a -- id")).trim().to_owned();
    assert_eq!(ids("nobody"), "uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)");
    assert_eq!(ids("nobody:0"), "uid=65534(nobody) gid=0(root) groups=0(root)");
    assert_eq!(ids("4242:4243"), "uid=4242 gid=4243 groups=4243");
    assert_eq!(
        capabilities(&daemon.ok("exec --user nobody a -- cat /proc/self/status")),
        [NONE, NONE, NONE, KEPT, NONE]
    );
    for (user, why) in [("4242", "no account"), ("nosuchuser", "no user"), ("root:nosuchgroup", "no group")] {
        let said = daemon.fails(&format!("exec --user {user} a -- id"));
        assert!(said.contains(why), "{said}");
    }
    daemon.ok("set a --user nobody");
    let said = text(&as_nobody(&bed, &daemon, "", "exec --user root a -- id"));
    assert!(said.contains("becoming user 0") && said.contains("not permitted"), "{said}");
    daemon.stop();
}

#[test]
fn users_enter_if_the_policy_has_them_and_cannot_leave_either() {
    let bed = bed("policy");
    let mut daemon = Afnetd::start(&bed);
    daemon.ok("add closed");
    daemon.ok("add byuser --user nobody");
    daemon.ok("add bygroup --group 4711");
    let id = |groups: &str, name: &str| as_nobody(&bed, &daemon, groups, &format!("exec {name} -- id -u"));
    for (groups, name) in [("", "closed"), ("4711", "closed"), ("", "bygroup"), ("4712", "bygroup")] {
        let output = id(groups, name);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{groups} {name}: {said}");
        assert!(said.contains("not permitted") && said.contains("--user 65534"), "{said}");
    }
    for (groups, name) in [("", "byuser"), ("4711", "bygroup"), ("4712,4711", "bygroup")] {
        assert_eq!(text(&id(groups, name)), "65534\n", "{groups} {name}");
    }
    // Changed at run time, and remembered across a crash.
    daemon.ok("set byuser --user=");
    daemon.ok("set closed --user 65534");
    daemon.kill();
    daemon.restart();
    let id = |name: &str| as_nobody(&bed, &daemon, "", &format!("exec {name} -- id -u")).status.code();
    assert_eq!((id("byuser"), id("closed")), (Some(1), Some(0)));
    assert_eq!(daemon.json("show closed")[0]["policy"]["users"][0], "65534");
    // Inside: no capability at all, no file of the tree that it may write, no other compartment.
    daemon.ok("set byuser --user nobody");
    let (_, root) = cgroup(&daemon, "closed");
    let inside = |command: &str| text(&as_nobody(&bed, &daemon, "", &format!("exec closed -- {command}")));
    let status = inside("cat /proc/self/status");
    assert_eq!(capabilities(&status)[..3], [NONE, NONE, NONE]);
    let find = format!("find {} -maxdepth 3 -writable -not -type l", root.display());
    assert_eq!(inside(&find).trim(), "");
    // setpriv looks the program up with the rights that it then gives up, as in `as_nobody`.
    let mut command = bed.host.command(binary("afnet"));
    command.args(["--instance", daemon.instance(), "exec", "closed", "--", "setpriv", "--reuid=65534"]);
    command.args(["--regid=65534", "--clear-groups"]).arg(binary("afnet"));
    let output =
        command.args(["--instance", daemon.instance(), "exec", "byuser", "--", "id"]).output().unwrap();
    let said = text(&output);
    assert!(said.contains("lives in closed and cannot leave it"), "{said}");
    daemon.stop();
}

#[test]
fn accounts_that_nobody_has_are_refused() {
    let bed = bed("accounts");
    let mut daemon = Afnetd::start(&bed);
    daemon.ok("add a --isolated");
    let before = daemon.json("list");
    for line in
        ["add b --user nosuchuser", "set a --user nosuchuser", "set a --isolated=off --group nosuchgroup"]
    {
        let said = daemon.fails(line);
        assert!(said.contains("nosuch"), "{line}: {said}");
    }
    assert_eq!(daemon.json("list"), before);
    let said = daemon.fails("set nosuch --isolated");
    assert!(said.contains("nosuch"), "{said}");
    daemon.stop();
}

#[test]
fn what_a_program_starts_stays_inside() {
    let bed = bed("children");
    let mut daemon = Afnetd::start(&bed);
    daemon.ok("add a");
    // A child, a daemon in a session of its own whose parent is gone, and one that changes its user.
    let script = "sleep 1000 & setsid sh -c 'sleep 1001 & exit' & wait $! ; \
                  setpriv --reuid=65534 --clear-groups sleep 1002 & exit 0";
    let mut command = bed.host.command(binary("afnet"));
    command.args(["--instance", daemon.instance(), "exec", "a", "--", "sh", "-c", script]);
    assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    let sleeping =
        |pid: u64| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.starts_with("sleep\0"));
    let pids = || -> Vec<u64> {
        daemon.json("pids a").as_array().unwrap().iter().map(|p| p.as_u64().unwrap()).collect()
    };
    afnet_tests::wait::until_true("the three", || {
        let pids = pids();
        pids.len() == 3 && pids.iter().all(|p| sleeping(*p))
    });
    for pid in pids() {
        assert_eq!(daemon.ok(&format!("identify {pid}")), "a\n");
    }
    daemon.ok("del a --force");
    afnet_tests::wait::until_true("the name to be free", || daemon.afnet("add a").status.success());
    daemon.stop();
}

#[test]
fn inside_one_still_knows_where_one_is() {
    let bed = bed("inside");
    let mut daemon = Afnetd::start(&bed);
    daemon.ok("add a");
    daemon.ok("add b");
    let afnet = binary("afnet").display().to_string();
    let inside =
        |line: &str| daemon.ok(&format!("exec a -- {afnet} --instance {} {line}", daemon.instance()));
    assert_eq!(inside("identify"), "a\n");
    assert_eq!(inside("pids a").lines().count(), 1);
    daemon.ok("exec b -- true");
    assert_eq!(inside("pids b"), "", "a cgroup that is empty");
    // Entering the compartment that one is in already.
    assert_eq!(inside("exec a -- id -u"), "0\n");
    assert_eq!(capabilities(&inside("exec a -- cat /proc/self/status"))[2], KEPT);
    daemon.stop();
}

#[test]
fn a_program_that_cannot_be_confined_does_not_run() {
    let bed = bed("weak");
    let mut daemon = Afnetd::start(&bed);
    daemon.ok("add a");
    // Root without CAP_SYS_ADMIN could not be kept from writing to the tree.
    let mut command = bed.host.command("setpriv");
    command.arg("--bounding-set=-sys_admin").arg(binary("afnet"));
    let output = command.args(["--instance", daemon.instance(), "exec", "a", "--", "id"]).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("CAP_SYS_ADMIN") && !said.contains("uid="), "{said}");
    daemon.stop();
}
