//! One process, told from a later one with the same number: a pid and the pidfd that says whether it is still its.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    pidfd: OwnedFd,
}

fn gone() -> io::Error {
    io::Error::from_raw_os_error(libc::ESRCH)
}

impl Process {
    /// The process with this number now; ESRCH if there is none. (Of a thread, the answer is an error too.)
    pub fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().filter(|p| *p > 0).and_then(Pid::from_raw).ok_or_else(gone)?;
        Ok(Self { pid, pidfd: pidfd_open(pid, PidfdFlags::empty())? })
    }

    /// A process whose pidfd came from elsewhere. `pid` is its number.
    pub fn from_pidfd(pid: u32, pidfd: OwnedFd) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().filter(|p| *p > 0).and_then(Pid::from_raw).ok_or_else(gone)?;
        Ok(Self { pid, pidfd })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Whether it lives. While it does nobody else has its number, so what was read or done by number before was
    /// its own.
    pub fn lives(&self) -> io::Result<bool> {
        // A pidfd becomes readable when its process ends.
        let mut poll = [rustix::event::PollFd::new(&self.pidfd, rustix::event::PollFlags::IN)];
        Ok(rustix::event::poll(&mut poll, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 }))? == 0)
    }

    /// A file of its directory in /proc; ESRCH if it has ended.
    pub fn read(&self, file: &str) -> io::Result<String> {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.pid()));
        if self.lives()? { text } else { Err(gone()) }
    }

    /// Path of its cgroup v2, as `/proc/PID/cgroup` shows it to us.
    pub fn cgroup(&self) -> io::Result<String> {
        let text = self.read("cgroup")?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"));
        path.map(str::to_owned).ok_or_else(|| io::Error::other("the process is in no cgroup v2"))
    }

    /// Whether it lives in our pid namespace, so that numbers mean the same to it as to us.
    pub fn shares_pids(&self) -> io::Result<bool> {
        let own = std::fs::read_link("/proc/self/ns/pid")?;
        let its = std::fs::read_link(format!("/proc/{}/ns/pid", self.pid()))?;
        Ok(own == its && self.lives()?)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.pidfd, signal)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_ended_is_gone_though_its_number_is_not() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        assert!(process.lives().unwrap() && process.shares_pids().unwrap());
        assert_eq!(process.pid(), child.id());
        assert!(process.cgroup().unwrap().starts_with('/'));
        process.signal(Signal::KILL).unwrap();
        // A zombie, until we wait: the number is still taken.
        while process.lives().unwrap() {
            std::thread::yield_now();
        }
        assert_eq!(process.cgroup().unwrap_err().raw_os_error(), Some(libc::ESRCH));
        child.wait().unwrap();
        assert_eq!(process.signal(Signal::KILL).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        for pid in [0, u32::MAX, 1 << 31, i32::MAX.unsigned_abs()] {
            assert_eq!(Process::open(pid).unwrap_err().raw_os_error(), Some(libc::ESRCH), "{pid}");
        }
    }
}
