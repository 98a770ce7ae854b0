//! Compiles the probe (`probe/`) twice: as an ordinary program, and static with raw system calls.

use std::{env, fs, path::PathBuf, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=probe");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("OUT_DIR"));
    let mut sources: Vec<_> =
        fs::read_dir("probe").expect("read probe/").map(|entry| entry.expect("an entry").path()).collect();
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "c"));
    sources.sort();
    for (name, flags) in [("probe", &[][..]), ("probe-raw", &["-static", "-DPROBE_RAW"][..])] {
        let program = out.join(name);
        let status = Command::new("cc")
            .args(["-O1", "-Wall", "-Wextra", "-Wno-unused-value", "-Werror", "-o"])
            .arg(&program)
            .args(flags)
            .args(&sources)
            .status()
            .expect("start cc");
        assert!(status.success(), "cc could not build the probe");
        let variable = name.replace('-', "_").to_uppercase();
        println!("cargo:rustc-env={variable}={}", program.display());
    }
}
