//! Binding the anchor socket of a queue: which modes to try, in which order, and what each refusal was.
//!
//! If the device's MTU does not fit into one frame: multi-buffer, zero-copy then copy. Then single buffers, likewise. A queue may
//! stay busy for a moment after the process that had it ended: EBUSY is tried again with back-off. Whether the XDP
//! program runs native or generic is control's business and decided before.

use std::{error::Error as StdError, io, str::FromStr, thread, time::Duration};

use xsk_rs::{
    Socket,
    config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig},
};

use super::{Anchor, Umem};
use crate::{
    config::{ModePreference, QueueMode},
    error::Error,
};

/// Back-off after EBUSY: first wait, doubled up to [`BUSY_TRIES`] times; about 2.5 s in all. Releasing a queue takes the
/// kernel one RCU grace period after the last reference, normally well under 100 ms.
const BUSY_WAIT: Duration = Duration::from_millis(10);
const BUSY_TRIES: u32 = 8;

/// Most time in microseconds that a busy-polling system call spends in the driver, and packets that it takes there.
const BUSY_POLL_USEC: u32 = 20;
const BUSY_POLL_BUDGET: u32 = 64;

/// What is to be bound.
#[derive(Clone, Debug)]
pub struct BindRequest<'a> {
    /// Interface, in the calling thread's network namespace.
    pub name: &'a str,
    /// Queue.
    pub queue: u32,
    /// Longest IP packet: decides whether packets may take several frames.
    pub mtu: u32,
    /// Modes to try.
    pub want: ModePreference,
    /// Bytes of a frame: 2048 or 4096.
    pub frame_size: u32,
    /// Frames of the UMEM; power of two.
    pub frames: u32,
    /// Entries of RX and TX ring; power of two.
    pub ring: u32,
    /// Ask for preferred busy polling.
    pub busy_poll: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Bound {
    /// The socket and its frames.
    pub anchor: Anchor,
    /// How it was bound.
    pub mode: QueueMode,
    /// Packets may take several frames.
    pub multi_buffer: bool,
    /// Preferred busy polling is on.
    pub busy_poll: bool,
    /// Better modes that were tried, and what the kernel answered.
    pub refused: Vec<(&'static str, String)>,
}

/// The kernel's answer inside of an error of xsk-rs.
pub(super) fn cause(error: &(dyn StdError + 'static)) -> io::Error {
    error
        .source()
        .and_then(|s| s.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error)
        .map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

/// Largest IP packet that fits into one frame: what is left after the kernel's headroom, Ethernet header and two tags.
pub(crate) fn single_frame_mtu(frame_size: u32) -> u32 {
    frame_size.saturating_sub(256 + 14 + 8)
}

/// Makes UMEM and anchor socket of a queue.
///
/// # Errors
/// If no mode works, with what the kernel answered to each.
pub fn bind_anchor(request: &BindRequest<'_>) -> Result<Bound, Error> {
    let sg = BindFlags::XDP_USE_SG;
    let needs_sg = request.mtu > single_frame_mtu(request.frame_size);
    let zero_copy = ("zero-copy", QueueMode::ZeroCopy, BindFlags::XDP_ZEROCOPY);
    let copy = ("copy", QueueMode::Copy, BindFlags::XDP_COPY);
    let modes = match request.want {
        ModePreference::Best => vec![zero_copy, copy],
        ModePreference::Copy => vec![copy],
        ModePreference::ZeroCopy => vec![zero_copy],
    };
    let mut refused = Vec::new();
    // Whole frames in copy mode are worth more than zero-copy without the long ones.
    let variants: &[(bool, BindFlags)] =
        if needs_sg { &[(true, sg), (false, BindFlags::empty())] } else { &[(false, BindFlags::empty())] };
    for (multi_buffer, extra) in variants {
        for (name, mode, flags) in &modes {
            match patiently(|| attempt(request, *flags | *extra)) {
                Ok(anchor) => {
                    let busy_poll =
                        request.busy_poll && *mode == QueueMode::ZeroCopy && prefer_busy_poll(&anchor);
                    return Ok(Bound {
                        anchor,
                        mode: *mode,
                        multi_buffer: *multi_buffer,
                        busy_poll,
                        refused,
                    });
                }
                Err(Failure::Ours(error)) => return Err(error),
                Err(Failure::Kernel(answer)) => {
                    let name = match (*name, multi_buffer) {
                        ("zero-copy", true) => "zero-copy multi-buffer",
                        (_, true) => "copy multi-buffer",
                        (name, false) => name,
                    };
                    refused.push((name, answer.to_string()));
                }
            }
        }
    }
    Err(Error::Bind { device: request.name.to_owned(), queue: request.queue, refused })
}

enum Failure {
    /// Not a matter of modes.
    Ours(Error),
    /// The kernel refused this mode.
    Kernel(io::Error),
}

fn patiently<T>(mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    let mut wait = BUSY_WAIT;
    for _ in 0..BUSY_TRIES {
        match attempt() {
            Err(Failure::Kernel(e)) if e.raw_os_error() == Some(libc::EBUSY) => thread::sleep(wait),
            other => return other,
        }
        wait *= 2;
    }
    attempt()
}

fn attempt(request: &BindRequest<'_>, flags: BindFlags) -> Result<Anchor, Failure> {
    let ours = |what: String| Failure::Ours(Error::Config(what));
    let ring = QueueSize::new(request.ring).map_err(|e| ours(e.to_string()))?;
    // The fill ring holds all frames, so giving one back never fails for want of room.
    let umem =
        Umem::new(request.frames, request.frame_size, request.frames, request.ring).map_err(Failure::Ours)?;
    let interface = Interface::from_str(request.name).map_err(|e| ours(e.to_string()))?;
    let config = SocketConfig::builder()
        .rx_queue_size(ring)
        .tx_queue_size(ring)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(flags | BindFlags::XDP_USE_NEED_WAKEUP)
        .build();
    // SAFETY: program loading is inhibited, as the contract of a shared (interface, queue) asks.
    let (tx, rx, rings) = unsafe { Socket::new(config, umem.inner(), &interface, request.queue) }
        .map_err(|e| Failure::Kernel(cause(&e)))?;
    let rings = rings.ok_or_else(|| ours("a new UMEM came without fill ring".to_owned()))?;
    Ok(Anchor::new(umem, rings, (rx, tx), request.ring))
}

/// Asks the driver to leave polling to us. False where the kernel refuses (before 5.11).
fn prefer_busy_poll(anchor: &Anchor) -> bool {
    let set = |option: i32, value: u32| {
        let value = libc::c_int::try_from(value).unwrap_or(0);
        let len = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
        // SAFETY: a valid socket and an int that lives through the call.
        let answer = unsafe {
            libc::setsockopt(
                std::os::fd::AsRawFd::as_raw_fd(&anchor.fd()),
                libc::SOL_SOCKET,
                option,
                (&raw const value).cast(),
                len,
            )
        };
        answer == 0
    };
    set(libc::SO_PREFER_BUSY_POLL, 1)
        && set(libc::SO_BUSY_POLL, BUSY_POLL_USEC)
        && set(libc::SO_BUSY_POLL_BUDGET, BUSY_POLL_BUDGET)
}
