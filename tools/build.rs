//! Compiles the bench's BPF programs and generates their skeleton.

use std::{env, path::PathBuf};

fn main() -> anyhow::Result<()> {
    const SOURCE: &str = "bpf/load.bpf.c";
    println!("cargo:rerun-if-changed={SOURCE}");
    let out = PathBuf::from(env::var("OUT_DIR")?).join("load.skel.rs");
    // Debian keeps <asm/types.h> in the architecture's own directory, which clang's BPF target does not search.
    let include = format!("-I/usr/include/{}-linux-gnu", env::var("CARGO_CFG_TARGET_ARCH")?);
    libbpf_cargo::SkeletonBuilder::new().source(SOURCE).clang_args([include]).build_and_generate(out)?;
    Ok(())
}
