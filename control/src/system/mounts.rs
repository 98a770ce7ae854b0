//! The table of mounts: `/proc/self/mountinfo`, see proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Which directory of the file system is mounted. Of cgroups it is relative to the reader's cgroup namespace.
    pub root: String,
    /// Where.
    pub point: PathBuf,
    /// Type of the file system.
    pub fstype: String,
}

/// The mounts of this process, in the order they were made.
pub fn read() -> io::Result<Vec<Mount>> {
    // Names need not be UTF-8.
    Ok(parse(&String::from_utf8_lossy(&std::fs::read("/proc/self/mountinfo")?)))
}

/// The mounts in a table's text. Lines that are none are left out.
pub fn parse(text: &str) -> Vec<Mount> {
    let one = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let mut fields = front.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let fstype = back.split(' ').next()?.to_owned();
        Some(Mount { root: root.to_owned(), point: plain(point), fstype })
    };
    text.lines().filter_map(one).collect()
}

/// The table writes white space and backslashes as `\ooo`.
fn plain(field: &str) -> PathBuf {
    let mut out = Vec::new();
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|d| first == b'\\' && d.iter().all(|d| (b'0'..=b'7').contains(d)));
        let value = octal.map(|d| d.iter().fold(0u32, |n, d| n * 8 + u32::from(d - b'0')));
        match value.and_then(|v| u8::try_from(v).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn lines_of_the_manual_page() {
        let text = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
                    nonsense\n37 35 0:5 / /a\\040b\\134\\011c rw - tmpfs t rw\n\
                    38 35 0:36 /../.. /sys/fs/cgroup rw shared:5 - cgroup2 cgroup2 rw\n";
        let all = parse(text);
        assert_eq!(all.len(), 3);
        assert_eq!((all[0].root.as_str(), all[0].fstype.as_str()), ("/mnt1", "ext3"));
        assert_eq!(all[1].point, Path::new("/a b\\\tc"));
        assert_eq!(all[2].root, "/../..");
        assert_eq!(
            (plain("\\"), plain("\\40"), plain("\\999x")),
            ("\\".into(), "\\40".into(), "\\999x".into())
        );
    }

    #[test]
    fn our_own_table_has_a_root() {
        assert!(read().unwrap().iter().any(|m| m.point == Path::new("/")));
    }
}
