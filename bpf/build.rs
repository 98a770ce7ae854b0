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
    for name in ["xdp", "host", "confine"] {
        libbpf_cargo::SkeletonBuilder::new()
            .source(format!("prog/{name}.bpf.c"))
            .clang_args(args)
            .build_and_generate(out.join(format!("{name}.skel.rs")))
            .unwrap_or_else(|e| panic!("{name}.bpf.c (needs clang and linux-libc-dev): {e:#}"));
    }
    let table = fs::read_to_string("include/counters.h").expect("include/counters.h");
    let frames = [section(&table, "COMPARTMENT_COUNTERS"), section(&table, "DEVICE_COUNTERS")];
    let mut code = counters("Counter", "COUNTER", &frames.concat());
    writeln!(code, "pub(crate) const BY_COMPARTMENT: usize = {};", frames[0].len()).unwrap();
    code += &counters("Refusal", "REFUSAL", &section(&table, "REFUSAL_COUNTERS"));
    fs::write(out.join("counters.rs"), code).expect("OUT_DIR is writable");
    let headers = ["include/afnet.h", "include/confine.h"].map(|h| fs::read_to_string(h).expect(h));
    fs::write(out.join("numbers.rs"), numbers(&headers.concat())).expect("OUT_DIR is writable");
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

/// The lines `X(NAME, "help") \` of one X-macro table: names and help texts, the latter in quotes.
fn section<'a>(table: &'a str, name: &str) -> Vec<(&'a str, &'a str)> {
    let start = format!("#define AFNET_{name}(X)");
    let lines = table.lines().skip_while(|line| !line.starts_with(&start)).skip(1);
    lines
        .map_while(|line| line.trim().strip_prefix("X(")?.split_once(", "))
        .map(|(name, help)| (name, help.trim_end_matches(['\\', ' ', ')'])))
        .collect()
}

/// An enum with the tables of its names and help texts.
fn counters(kind: &str, prefix: &str, entries: &[(&str, &str)]) -> String {
    let [mut variants, mut all, mut names, mut helps] = [const { String::new() }; 4];
    for (name, help) in entries {
        let camel: String = name.split('_').map(|w| w[..1].to_string() + &w[1..].to_lowercase()).collect();
        writeln!(variants, "    #[doc = {help}]\n    {camel},").unwrap();
        writeln!(all, "    {kind}::{camel},").unwrap();
        writeln!(names, "    {:?},", name.to_lowercase()).unwrap();
        writeln!(helps, "    {help},").unwrap();
    }
    let total = entries.len();
    format!(
        "/// A reason that a BPF program counts; the index into vectors of counters.\n\
         #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]\n#[repr(usize)]\n\
         pub enum {kind} {{\n{variants}}}\n\
         const {prefix}_ALL: [{kind}; {total}] = [\n{all}];\n\
         const {prefix}_NAMES: [&str; {total}] = [\n{names}];\n\
         const {prefix}_HELPS: [&str; {total}] = [\n{helps}];\n"
    )
}
