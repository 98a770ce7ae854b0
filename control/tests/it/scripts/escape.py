"""Root in a compartment tries to get out. Prints a line for each way that is open, and `tried N` at the end."""

import ctypes
import os
import socket
import subprocess
import sys

libc = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWCGROUP, NEWUSER, NEWNET = 0x20000, 0x2000000, 0x10000000, 0x40000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MNT_DETACH = 1, 32, 4096, 2
tried = 0


def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def mount(source, target, kind, flags):
    check(libc.mount(source.encode(), target.encode(), kind and kind.encode(), flags, None))


def attempt(name, action):
    global tried
    tried += 1
    try:
        action()
    except OSError:
        return
    except subprocess.CalledProcessError:
        return
    print("open:", name, flush=True)


def mounts():
    for line in open("/proc/self/mountinfo"):
        front, back = line.split(" - ")
        yield back.split()[0], front.split()[4]


def run(line):
    subprocess.run(line.split(), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def setns(path, kind):
    fd = os.open(path, os.O_RDONLY)
    check(libc.setns(fd, kind))


def listing(path):
    if not os.listdir(path):
        raise OSError("empty")


def in_child(action):
    """In a process of its own, since it may change what the others need."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
        except OSError:
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1] != 0:
        raise OSError("failed")


def user_namespace(action):
    def inside():
        check(libc.unshare(NEWUSER | NEWNS | NEWCGROUP))
        action()
    return lambda: in_child(inside)


cgroups = [point for kind, point in mounts() if kind in ("cgroup", "cgroup2")]
whole = [point for kind, point in mounts() if kind == "cgroup2"][0]
assert cgroups, "this machine has no cgroups to get out of"
for point in cgroups:
    attempt("cgroup.procs of " + point, lambda: write(point + "/cgroup.procs", str(os.getpid())))
    attempt("a cgroup in " + point, lambda: os.mkdir(point + "/afnet-escape"))
    attempt("remounting " + point, lambda: mount("", point, None, MS_REMOUNT))
    attempt("remounting the mount " + point, lambda: mount("", point, None, MS_REMOUNT | MS_BIND))
    attempt("unmounting " + point, lambda: check(libc.umount2(point.encode(), MNT_DETACH)))
    rw = lambda: mount("", point, None, MS_REMOUNT | MS_BIND)
    attempt("remounting in a user namespace " + point, user_namespace(rw))
    off = lambda: check(libc.umount2(point.encode(), MNT_DETACH))
    attempt("unmounting in a user namespace " + point, user_namespace(off))
for kind, point in mounts():
    if kind == "bpf":
        attempt("pins in " + point, lambda: listing(point))
        off = lambda: check(libc.umount2(point.encode(), MNT_DETACH))
        attempt("uncovering " + point, off)
        attempt("uncovering in a user namespace " + point, user_namespace(off))
attempt("mounting cgroup2", lambda: mount("none", "/mnt", "cgroup2", 0))
attempt("mounting proc", lambda: mount("none", "/mnt", "proc", 0))
attempt("mounting bpffs", lambda: mount("none", "/mnt", "bpf", 0))
attempt("binding", lambda: mount(whole, "/mnt", None, MS_BIND))


def above_from_user_namespace():
    # It may be mounted there, but its root is the compartment. The tree's own root has no such file.
    mount("none", "/mnt", "cgroup2", 0)
    if os.path.exists("/mnt/cgroup.type"):
        raise OSError("the compartment")


attempt("cgroup2 of a user namespace", user_namespace(above_from_user_namespace))
for name, kind in [("mnt", NEWNS), ("cgroup", NEWCGROUP), ("net", NEWNET), ("user", NEWUSER)]:
    attempt("init's " + name, lambda: setns("/proc/1/ns/" + name, kind))
attempt("init's namespaces by pidfd", lambda: check(libc.setns(os.pidfd_open(1), NEWNS | NEWCGROUP)))
attempt("a mount namespace", lambda: in_child(lambda: check(libc.unshare(NEWNS))))
attempt("a network namespace", lambda: in_child(lambda: check(libc.unshare(NEWNET))))
attempt("nsenter", lambda: run("nsenter -t 1 -m -C true"))
attempt("init's root", lambda: os.listdir("/proc/1/root"))
attempt("init's directory", lambda: os.listdir("/proc/1/cwd"))
attempt("init's memory", lambda: os.open("/proc/1/mem", os.O_RDWR))
attempt("tracing init", lambda: check(libc.ptrace(0x4206, 1, None, None)))
attempt("core_pattern", lambda: open("/proc/sys/kernel/core_pattern", "r+").close())
attempt("ip_forward", lambda: open("/proc/sys/net/ipv4/ip_forward", "r+").close())
attempt("sysrq", lambda: open("/proc/sysrq-trigger", "w").close())
attempt("uevent_helper", lambda: open("/sys/kernel/uevent_helper", "r+").close())
attempt("packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt("route", lambda: run("ip route add 203.0.113.0/24 dev lo"))
attempt("address", lambda: run("ip addr add 203.0.113.1/32 dev lo"))
attempt("link", lambda: run("ip link add afnetesc type bridge"))
attempt("rule", lambda: run("ip rule add to 203.0.113.1 lookup 7"))
attempt("device node", lambda: os.mknod(sys.argv[1] + "/node", 0o20600, os.makedev(1, 1)))
attempt("file capabilities", lambda: os.setxattr(
    sys.argv[2], "security.capability", bytes.fromhex("0100000200300000000000000000000000000000")))
attempt("ambient capability", lambda: check(libc.prctl(47, 2, 12, 0, 0)))
for fd in os.listdir("/proc/self/fd"):
    if os.path.exists("/proc/self/fd/" + fd + "/cgroup.procs"):
        print("open: inherited directory", fd)
if os.path.exists("cgroup.procs"):
    attempt("the directory where it started", lambda: write("cgroup.procs", "0"))
print("tried", tried, flush=True)
