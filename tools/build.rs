//! Compiles the BPF programs of bench and pktgen and generates their skeletons.

use std::{env, path::PathBuf};

fn main() -> anyhow::Result<()> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Debian keeps <asm/types.h> in the architecture's own directory, which clang's BPF target does not search.
    let include = format!("-I/usr/include/{}-linux-gnu", env::var("CARGO_CFG_TARGET_ARCH")?);
    for name in ["load", "pktgen"] {
        let source = format!("bpf/{name}.bpf.c");
        println!("cargo:rerun-if-changed={source}");
        libbpf_cargo::SkeletonBuilder::new()
            .source(source)
            .clang_args([&include])
            .build_and_generate(out.join(format!("{name}.skel.rs")))?;
    }
    Ok(())
}
