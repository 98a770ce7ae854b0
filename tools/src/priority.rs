//! Everything that is measured goes before whatever else runs on the machine: the highest nice value for this thread, and
//! so for all processes that it starts, and for the scheduler's group of this session (autogroup), within which alone
//! nice values count. Needs CAP_SYS_NICE; without, other processes disturb more.

use std::{fs, process};

use rustix::process::{getpriority_process, setpriority_process};

const HIGHEST: i32 = -20;

/// High until it is dropped.
#[derive(Debug)]
pub struct Priority {
    nice: i32,
    group: Option<i32>,
}

impl Priority {
    /// Raises it.
    pub fn raise() -> Self {
        let nice = getpriority_process(None).unwrap_or(0);
        let group = group();
        set(HIGHEST, group.map(|_| HIGHEST));
        Self { nice, group }
    }
}

impl Drop for Priority {
    fn drop(&mut self) {
        set(self.nice, self.group);
    }
}

/// Both are best effort: a machine where they fail is measured all the same.
fn set(nice: i32, group: Option<i32>) {
    let _ = setpriority_process(None, nice);
    if let Some(group) = group {
        let _ = fs::write(file(), group.to_string());
    }
}

/// Nice value of the session's group, where the kernel has such: `/autogroup-7 nice 0`.
fn group() -> Option<i32> {
    fs::read_to_string(file()).ok()?.split_whitespace().last()?.parse().ok()
}

fn file() -> String {
    format!("/proc/{}/autogroup", process::id())
}
