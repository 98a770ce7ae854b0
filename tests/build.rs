//! Compiles the C programs of the tests: the probe (`probe/`) as an ordinary program, and static with raw system
//! calls; the cases of socket calls (`probe/calls/`), static too.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    println!("cargo:rerun-if-changed=probe");
    build("probe", "probe", &[]);
    build("probe-raw", "probe", &["-static", "-DPROBE_RAW"]);
    // Misuse is what some cases are about.
    let misuse = ["-pthread", "-Wno-stringop-overflow", "-Wno-nonnull"];
    build("calls", "probe/calls", &misuse);
    build("calls-static", "probe/calls", &[misuse.as_slice(), &["-static"]].concat());
}

/// The C files of a directory as a program, whose path tests find in a variable of its name.
fn build(name: &str, directory: &str, flags: &[&str]) {
    let program = PathBuf::from(env::var_os("OUT_DIR").expect("OUT_DIR")).join(name);
    let status = Command::new("cc")
        .args(["-O1", "-Wall", "-Wextra", "-Wno-unused-value", "-Werror", "-o"])
        .arg(&program)
        .args(flags)
        .args(sources(Path::new(directory)))
        .status()
        .expect("start cc");
    assert!(status.success(), "cc could not build {name}");
    let variable = name.replace('-', "_").to_uppercase();
    println!("cargo:rustc-env={variable}={}", program.display());
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut sources: Vec<_> = fs::read_dir(directory)
        .expect("read a directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "c"));
    sources.sort();
    sources
}
