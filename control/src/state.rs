//! Runtime state: one JSON file for each compartment, so that a restarted daemon finds them again.
//!
//! `RUNDIR/compartments/NAME.json`. Whenever the daemon is killed, a file is either the old or the new one: a short one
//! is written by one `pwrite()`, which no signal divides within a page; a longer one is replaced by rename. (Making and
//! renaming a file for each change would be most of the cost of an address where `/run` is no tmpfs.) `/run` is gone
//! after a reboot, as are the kernel's addresses, so nothing is synced to a disk.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use afnet_abi::control::{AddressSpec, AddressState, Policy};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Refused};
use crate::names;

/// Version of the files.
const VERSION: u32 = 1;

/// Longest text in bytes that is written in place: the kernel looks for fatal signals between pages only.
const ATOMIC: usize = 4096;

/// What is remembered of a compartment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// [`VERSION`].
    pub version: u32,
    /// Name.
    pub name: String,
    /// Slot, kept if it is free.
    pub id: u32,
    /// What it may do.
    pub policy: Policy,
    /// Addresses and prefixes.
    pub addresses: Vec<SavedAddress>,
}

/// An address or prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedAddress {
    /// What and where.
    #[serde(flatten)]
    pub spec: AddressSpec,
    /// State.
    pub state: AddressState,
}

impl Saved {
    /// A compartment with its addresses.
    pub fn new(name: &str, id: u32, policy: Policy, addresses: Vec<SavedAddress>) -> Self {
        Self { version: VERSION, name: name.to_owned(), id, policy, addresses }
    }
}

/// The directory of state files.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens the directory, makes it (for root only) if needed.
    pub fn open(dir: &Path) -> Result<Self, Refused> {
        use std::os::unix::fs::DirBuilderExt;
        let make = fs::DirBuilder::new().recursive(true).mode(0o755).create(dir);
        make.refused(|| format!("making {}", dir.display()))?;
        Ok(Self { dir: dir.to_owned() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.json"))
    }

    /// Writes or replaces a compartment's file.
    pub fn save(&self, saved: &Saved) -> Result<(), Refused> {
        let path = self.path(&saved.name);
        let json = serde_json::to_vec(saved).map_err(io::Error::from);
        json.and_then(|json| self.write(&saved.name, json)).refused(|| format!("saving {}", path.display()))
    }

    fn write(&self, name: &str, mut json: Vec<u8>) -> io::Result<()> {
        let path = self.path(name);
        let open = |options: &mut fs::OpenOptions, path| options.write(true).mode(0o600).open(path);
        if json.len() <= ATOMIC {
            let file = match open(&mut fs::OpenOptions::new(), &path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    open(fs::OpenOptions::new().create_new(true), &path)?
                }
                other => other?,
            };
            let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
            if len <= ATOMIC {
                // What is left of a longer old text becomes white space.
                json.resize(len.max(json.len()), b' ');
                return match file.write_at(&json, 0)? {
                    n if n == json.len() => Ok(()),
                    _ => Err(io::ErrorKind::WriteZero.into()),
                };
            }
        }
        // A leading dot is no compartment's name, so no other file is hit.
        let new = self.dir.join(format!(".{name}.new"));
        open(fs::OpenOptions::new().create(true).truncate(true), &new)?.write_all(&json)?;
        fs::rename(&new, &path)
    }

    /// Forgets a compartment.
    pub fn remove(&self, name: &str) -> Result<(), Refused> {
        match fs::remove_file(self.path(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Refused::io(format!("removing {}", self.path(name).display()), &e))
            }
            _ => Ok(()),
        }
    }

    /// All compartments, in order of slot, and a line for each file that is not one.
    pub fn load(&self) -> Result<(Vec<Saved>, Vec<String>), Refused> {
        let mut saved = Vec::new();
        let mut bad = Vec::new();
        let entries = fs::read_dir(&self.dir).refused(|| format!("reading {}", self.dir.display()))?;
        for entry in entries.flatten() {
            let path = entry.path();
            let file = entry.file_name().to_string_lossy().into_owned();
            let Some(name) = file.strip_suffix(".json").filter(|n| names::check_compartment(n).is_ok())
            else {
                // A file that was being written when the daemon died.
                if file.starts_with('.') {
                    let _ = fs::remove_file(&path);
                }
                continue;
            };
            // Made, not yet written: whoever asked for it has had no answer.
            if entry.metadata().is_ok_and(|m| m.len() == 0) {
                let _ = fs::remove_file(&path);
                continue;
            }
            match fs::read(&path).map_err(|e| e.to_string()).and_then(|text| parse(&text, name)) {
                Ok(compartment) => saved.push(compartment),
                Err(why) => bad.push(format!("{}: {why}", path.display())),
            }
        }
        saved.sort_by(|a, b| (a.id, &a.name).cmp(&(b.id, &b.name)));
        Ok((saved, bad))
    }

    /// Removes the directory with all state.
    pub fn remove_all(&self) {
        if let Err(e) = fs::remove_dir_all(&self.dir) {
            tracing::warn!("removing {}: {e}", self.dir.display());
        }
    }
}

fn parse(text: &[u8], name: &str) -> Result<Saved, String> {
    let saved: Saved = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    if saved.version != VERSION {
        return Err(format!("version {}, this afnetd reads {VERSION}", saved.version));
    }
    if saved.name != name {
        return Err(format!("holds {:?}", saved.name));
    }
    Ok(saved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(name: &str, id: u32) -> Saved {
        let spec = AddressSpec {
            address: "192.0.2.1".parse().unwrap(),
            prefix_len: 24,
            dev: "eth0".to_owned(),
            vlan: "10.7".parse().unwrap(),
            delegated: false,
            fast_only: true,
            defend: None,
            nodad: false,
        };
        Saved::new(
            name,
            id,
            Policy { rate_pps: 5, burst: 0, ..Policy::default() },
            vec![SavedAddress { spec, state: AddressState::Ok }],
        )
    }

    #[test]
    fn what_was_saved_is_loaded_in_order_of_slot() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("c")).unwrap();
        for (name, id) in [("a", 3), ("b", 1), ("c", 2)] {
            store.save(&saved(name, id)).unwrap();
        }
        store.save(&Saved { addresses: Vec::new(), ..saved("a", 3) }).unwrap();
        store.remove("c").unwrap();
        store.remove("c").unwrap();
        let (loaded, bad) = store.load().unwrap();
        assert_eq!(loaded, [saved("b", 1), Saved { addresses: Vec::new(), ..saved("a", 3) }]);
        assert!(bad.is_empty());
        store.remove_all();
        assert!(!dir.path().join("c").exists());
    }

    #[test]
    fn files_grow_and_shrink_across_the_bound_of_writing_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for count in [0, 1, 100, 3, 0, 20, 19] {
            let one = saved("a", 1).addresses.remove(0);
            let all = Saved { addresses: vec![one; count], ..saved("a", 1) };
            store.save(&all).unwrap();
            assert_eq!(store.load().unwrap(), (vec![all], Vec::new()), "{count}");
        }
        fs::write(dir.path().join("empty.json"), "").unwrap();
        assert_eq!(store.load().unwrap().0.len(), 1);
        assert!(!dir.path().join("empty.json").exists());
    }

    #[test]
    fn damaged_files_are_reported_and_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save(&saved("good", 1)).unwrap();
        fs::write(dir.path().join("cut.json"), "{\"version\":1").unwrap();
        fs::write(
            dir.path().join("old.json"),
            serde_json::to_vec(&Saved { version: 0, ..saved("old", 1) }).unwrap(),
        )
        .unwrap();
        fs::copy(dir.path().join("good.json"), dir.path().join("other.json")).unwrap();
        fs::write(dir.path().join(".a.new"), "").unwrap();
        let (loaded, bad) = store.load().unwrap();
        assert_eq!((loaded.len(), bad.len()), (1, 3), "{bad:?}");
        assert!(!dir.path().join(".a.new").exists());
    }
}
