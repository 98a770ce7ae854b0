//! `--user USER[:GROUP]` of `afnet exec`: who the program runs as, in the manner of chroot(1).

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use rustix::io::Errno;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::error::{Context, Refused};

/// Numbers of a user and its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl RunAs {
    /// Looks names up. Without GROUP it is the user's own; a number that is no account wants one.
    pub fn find(text: &str) -> Result<Self, Refused> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let account = match number(user) {
            Some(uid) => User::from_uid(Uid::from_raw(uid)),
            None => User::from_name(user),
        };
        let account = account.map_err(std::io::Error::from).refused(|| format!("finding user {user:?}"))?;
        let uid = number(user)
            .or_else(|| account.as_ref().map(|a| a.uid.as_raw()))
            .ok_or_else(|| Refused::new(Errno::NOENT, format!("there is no user {user:?}")))?;
        let gid = match group {
            None => account.as_ref().map(|a| a.gid.as_raw()).ok_or_else(|| {
                let text = format!("user {uid} has no account, so no group: --user {uid}:GROUP");
                Refused::new(Errno::NOENT, text)
            })?,
            Some(group) => match number(group) {
                Some(gid) => gid,
                None => Group::from_name(group)
                    .map_err(std::io::Error::from)
                    .refused(|| format!("finding group {group:?}"))?
                    .map(|found| found.gid.as_raw())
                    .ok_or_else(|| Refused::new(Errno::NOENT, format!("there is no group {group:?}")))?,
            },
        };
        let groups = match account.and_then(|a| CString::new(a.name).ok()) {
            None => vec![gid],
            Some(name) => getgrouplist(&name, Gid::from_raw(gid))
                .map_err(std::io::Error::from)
                .refused(|| format!("finding the groups of {user}"))?
                .into_iter()
                .map(Gid::as_raw)
                .collect(),
        };
        Ok(Self { uid, gid, groups })
    }

    /// Makes the calling thread, the only one, run as the user. Needs CAP_SETUID and CAP_SETGID.
    pub fn become_it(&self) -> Result<(), Refused> {
        use rustix::process::{Gid, Uid};
        let what = || format!("becoming user {} with group {}", self.uid, self.gid);
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        set_thread_groups(&groups).refused(what)?;
        set_thread_res_gid(gid, gid, gid).refused(what)?;
        set_thread_res_uid(uid, uid, uid).refused(what)
    }
}

/// `u32::MAX` means "no change" to the kernel.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n| *n != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let root = RunAs::find("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0));
        assert_eq!(RunAs::find("0:7").unwrap().gid, 7);
        let nobody = RunAs { uid: 4_000_000_000, gid: 12, groups: vec![12] };
        assert_eq!(RunAs::find("4000000000:12"), Ok(nobody));
        assert!(RunAs::find("root:root").is_ok_and(|r| r.gid == 0));
        for (text, why) in [
            ("4000000000", "has no account"),
            ("no such user", "no user"),
            ("root:no such group", "no group"),
            ("", "no user"),
            ("root:", "no group"),
            ("4294967295:0", "no user"),
        ] {
            let error = RunAs::find(text).unwrap_err();
            assert!(error.message.contains(why), "{text}: {error}");
        }
    }
}
