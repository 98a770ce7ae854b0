//! An XDP program that passes every frame, for the peer's end of a veth pair.
//!
//! Frames that the XDP program of one end answers with (XDP_TX) wait in the other end's ring until its NAPI runs,
//! and `veth_xdp_flush` of drivers/net/veth.c wakes that only if the other end has an XDP program too. A real
//! network card has no such need.

use std::{io, os::fd::AsRawFd, os::fd::FromRawFd, os::fd::OwnedFd, ptr};

use libbpf_rs::libbpf_sys::{self, bpf_insn, bpf_prog_load_opts};

/// BPF_F_XDP_HAS_FRAGS of linux/bpf.h: frames longer than a page are welcome.
const HAS_FRAGS: u32 = 1 << 5;

/// Attaches the program to an interface of the calling thread's network namespace, for as long as that lives.
///
/// # Errors
/// What the kernel says.
pub fn attach(ifindex: u32) -> io::Result<()> {
    const MOV64_IMM: u8 = 0xb7;
    const EXIT: u8 = 0x95;
    const XDP_PASS: i32 = 2;
    let program = [
        bpf_insn { code: MOV64_IMM, imm: XDP_PASS, ..Default::default() },
        bpf_insn { code: EXIT, ..Default::default() },
    ];
    let mut options = bpf_prog_load_opts {
        sz: size_of::<bpf_prog_load_opts>() as u64,
        prog_flags: HAS_FRAGS,
        ..Default::default()
    };
    let check =
        |result: i32| if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) };
    // SAFETY: the strings end in NUL; instructions and options live through the call.
    let fd = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_XDP,
            c"pass".as_ptr(),
            c"GPL".as_ptr(),
            program.as_ptr(),
            program.len() as u64,
            &raw mut options,
        )
    };
    // SAFETY: a new descriptor that nobody else has.
    let program = unsafe { OwnedFd::from_raw_fd(check(fd)?) };
    let ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
    // SAFETY: plain numbers, no options.
    check(unsafe { libbpf_sys::bpf_xdp_attach(ifindex, program.as_raw_fd(), 0, ptr::null()) }).map(drop)
}
