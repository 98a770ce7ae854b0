//! Compiles the BPF programs, generates their skeletons and the `Counter` enum; everything goes to OUT_DIR.

use std::{env, fmt::Write, fs, path::PathBuf};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for dir in ["include", "prog"] {
        println!("cargo::rerun-if-changed={dir}");
    }
    // asm/types.h lives in the multiarch directory, which clang does not search when it compiles for BPF.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target");
    let args = ["-mcpu=v3", "-Wall", "-Wextra", "-Werror", &format!("-I/usr/include/{arch}-linux-gnu")];
    for name in ["xdp", "host"] {
        libbpf_cargo::SkeletonBuilder::new()
            .source(format!("prog/{name}.bpf.c"))
            .clang_args(args)
            .build_and_generate(out.join(format!("{name}.skel.rs")))
            .unwrap_or_else(|e| panic!("{name}.bpf.c (needs clang and linux-libc-dev): {e:#}"));
    }
    let table = fs::read_to_string("include/counters.h").expect("include/counters.h");
    fs::write(out.join("counters.rs"), counters(&table)).expect("OUT_DIR is writable");
    let header = fs::read_to_string("include/afnet.h").expect("include/afnet.h");
    fs::write(out.join("numbers.rs"), numbers(&header)).expect("OUT_DIR is writable");
}

/// Constants from the lines `#define AFNET_NAME number`.
fn numbers(header: &str) -> String {
    let mut constants = String::new();
    for line in header.lines() {
        let mut words = line.split_whitespace();
        if let (Some("#define"), Some(name), Some(Ok(value))) =
            (words.next(), words.next(), words.next().map(str::parse::<u32>))
        {
            writeln!(constants, "pub const {}: u32 = {value};", &name["AFNET_".len()..]).unwrap();
        }
    }
    constants
}

/// The enum and its tables from the X-macro table: lines `X(NAME, "help") \`, compartment counters first.
fn counters(table: &str) -> String {
    let [mut variants, mut all, mut names, mut helps] = [const { String::new() }; 4];
    let (mut total, mut by_compartment) = (0, 0);
    for line in table.lines() {
        if line.starts_with("#define AFNET_DEVICE_COUNTERS") {
            by_compartment = total;
        }
        let Some((name, help)) = line.trim().strip_prefix("X(").and_then(|rest| rest.split_once(", ")) else {
            continue;
        };
        let help = help.trim_end_matches(['\\', ' ', ')']);
        let camel: String = name.split('_').map(|w| w[..1].to_string() + &w[1..].to_lowercase()).collect();
        writeln!(variants, "    #[doc = {help}]\n    {camel},").unwrap();
        writeln!(all, "    Counter::{camel},").unwrap();
        writeln!(names, "    {:?},", name.to_lowercase()).unwrap();
        writeln!(helps, "    {help},").unwrap();
        total += 1;
    }
    format!(
        "/// A verdict or drop reason of the XDP program; the index into the vectors that `Demux` returns.\n\
         #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]\n#[repr(usize)]\n\
         pub enum Counter {{\n{variants}}}\n\
         pub(crate) const TOTAL: usize = {total};\npub(crate) const BY_COMPARTMENT: usize = {by_compartment};\n\
         const ALL: [Counter; TOTAL] = [\n{all}];\n\
         const NAMES: [&str; TOTAL] = [\n{names}];\nconst HELPS: [&str; TOTAL] = [\n{helps}];\n"
    )
}
