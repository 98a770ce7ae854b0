//! Where the socket shim is (`libafnet.so`), and how a program gets it: `LD_PRELOAD`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::CliError;

/// Environment variable that names the file.
const VARIABLE: &str = "AFNET_SHIM";
/// Its name everywhere else.
const NAME: &str = "libafnet.so";
/// Where distributions and `make install` put it.
const INSTALLED: [&str; 2] = ["/usr/lib/afnet", "/usr/local/lib/afnet"];

/// The shim of this installation, by an absolute path.
pub fn find() -> Result<PathBuf, CliError> {
    let named = std::env::var_os(VARIABLE).filter(|value| !value.is_empty());
    let exe = std::env::current_exe().unwrap_or_default();
    let found = look(&candidates(named.as_deref(), &exe))?;
    if found.as_os_str().as_bytes().iter().any(|b| b": \t".contains(b)) {
        let text = format!("{}: LD_PRELOAD takes no path with blanks or colons in it", found.display());
        return Err(CliError::Io(text));
    }
    Ok(found)
}

/// In order: what the variable says and nothing else; beside the executable (cargo has both there), `../lib/afnet`,
/// the installed ones.
fn candidates(named: Option<&OsStr>, exe: &Path) -> Vec<PathBuf> {
    if let Some(named) = named {
        return vec![named.into()];
    }
    let mut all = Vec::new();
    if let Some(beside) = exe.parent() {
        all.push(beside.join(NAME));
        all.extend(beside.parent().map(|above| above.join("lib/afnet").join(NAME)));
    }
    all.extend(INSTALLED.map(|directory| Path::new(directory).join(NAME)));
    all
}

/// The first that there is.
fn look(places: &[PathBuf]) -> Result<PathBuf, CliError> {
    let there = |place: &PathBuf| place.canonicalize().ok().filter(|path| path.is_file());
    places.iter().find_map(there).ok_or_else(|| {
        let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        let text = format!(
            "the shim for --fast is not there: looked for {}; {VARIABLE} may name the file",
            places.join(", ")
        );
        CliError::Io(text)
    })
}

/// The value of `LD_PRELOAD` with the shim before what there is already.
pub fn preload(shim: &Path, before: Option<&OsStr>) -> OsString {
    let mut value = shim.as_os_str().to_owned();
    if let Some(before) = before.filter(|value| !value.is_empty()) {
        value.push(":");
        value.push(before);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_their_order() {
        let all = candidates(None, Path::new("/opt/x/bin/afnet"));
        let want = [
            "/opt/x/bin/libafnet.so",
            "/opt/x/lib/afnet/libafnet.so",
            "/usr/lib/afnet/libafnet.so",
            "/usr/local/lib/afnet/libafnet.so",
        ];
        assert_eq!(all, want.map(PathBuf::from));
        let named = candidates(Some("/some/where.so".as_ref()), Path::new("/opt/x/bin/afnet"));
        assert_eq!(named, [PathBuf::from("/some/where.so")]);
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("a"), dir.path().join("b"));
        let error = look(&[first.clone(), second.clone()]).unwrap_err().to_string();
        assert!(
            error.contains(first.to_str().unwrap()) && error.contains(second.to_str().unwrap()),
            "{error}"
        );
        std::fs::create_dir(&first).unwrap();
        std::fs::write(&second, "").unwrap();
        assert_eq!(look(&[first, second.clone()]).unwrap(), second.canonicalize().unwrap());
    }

    #[test]
    fn what_is_preloaded_already_stays() {
        let shim = Path::new("/a/libafnet.so");
        assert_eq!(preload(shim, None), "/a/libafnet.so");
        assert_eq!(preload(shim, Some("".as_ref())), "/a/libafnet.so");
        assert_eq!(preload(shim, Some("/b.so /c.so".as_ref())), "/a/libafnet.so:/b.so /c.so");
    }
}
