//! Users and groups, by name or number.
//!
//! Names are those of `/etc/passwd` and `/etc/group`. The name service proper may ask the network, and the control
//! thread waits for nobody: users of a directory service are given by number.

use std::fs;

use afnet_abi::control::Policy;
use rustix::io::Errno;

use crate::error::{Context, Refused};

/// Number of a user.
pub fn user_id(name: &str) -> Result<u32, Refused> {
    id("user", "/etc/passwd", name)
}

/// Number of a group.
pub fn group_id(name: &str) -> Result<u32, Refused> {
    id("group", "/etc/group", name)
}

fn id(kind: &str, file: &str, name: &str) -> Result<u32, Refused> {
    if let Some(number) = number(name) {
        return Ok(number);
    }
    let text = fs::read_to_string(file).refused(|| format!("reading {file}"))?;
    find(&text, name)
        .ok_or_else(|| Refused::new(Errno::NOENT, format!("there is no {kind} {name:?} in {file}")))
}

/// `u32::MAX` stands for "no change" in system calls and is nobody's number.
fn number(name: &str) -> Option<u32> {
    name.parse().ok().filter(|n| *n != u32::MAX)
}

/// The number in the line of `name`: both files have `name:password:number`.
fn find(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| number(fields.nth(1)?))?
    })
}

/// Refuses names that nobody has, which are mostly mistakes.
pub fn check(users: &[String], groups: &[String]) -> Result<(), Refused> {
    users.iter().try_for_each(|name| user_id(name).map(drop))?;
    groups.iter().try_for_each(|name| group_id(name).map(drop))
}

/// Whether a policy lets a process with this user and these groups in. Accounts that are gone let nobody in.
pub fn admits(policy: &Policy, user: u32, groups: &[u32]) -> bool {
    policy.users.iter().any(|name| user_id(name) == Ok(user))
        || policy.groups.iter().any(|name| group_id(name).is_ok_and(|group| groups.contains(&group)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_names_or_numbers() {
        assert_eq!((user_id("root"), group_id("root")), (Ok(0), Ok(0)));
        assert_eq!((user_id("4711"), group_id("4711")), (Ok(4711), Ok(4711)));
        for name in ["no such account", "", "-1", "4294967295", "99999999999"] {
            assert_eq!(user_id(name).unwrap_err().errno, Errno::NOENT, "{name:?}");
            assert_eq!(group_id(name).unwrap_err().errno, Errno::NOENT, "{name:?}");
        }
        let text = "bad\nx:y\nwww:x:33:33:www:/var/www:/usr/sbin/nologin\nevil:x:4294967295:\n";
        assert_eq!((find(text, "www"), find(text, "ww")), (Some(33), None));
        assert_eq!((find(text, "x"), find(text, "bad"), find(text, "evil")), (None, None, None));
    }

    #[test]
    fn a_policy_admits_whom_it_lists() {
        let none = Policy::default();
        assert!(!admits(&none, 0, &[0]), "by default nobody");
        let policy = Policy {
            users: vec!["gone".to_owned(), "1000".to_owned()],
            groups: vec!["root".to_owned(), "gone".to_owned()],
            ..Policy::default()
        };
        assert!(admits(&policy, 1000, &[5]) && admits(&policy, 7, &[5, 0]));
        assert!(!admits(&policy, 7, &[1000]) && !admits(&policy, 0, &[]));
        assert!(check(&policy.users, &[]).is_err() && check(&["0".to_owned()], &["root".to_owned()]).is_ok());
    }
}
