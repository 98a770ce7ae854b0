//! AF_XDP: the only place that touches xsk-rs, and the only unsafe code of the workers besides the rings'.
//!
//! ```text
//!              one device queue
//!  +---------------------------------------------+
//!  | Umem: memory, who has which frame           |
//!  |   fill  ---> kernel        (rx buffers)     |
//!  |   completion <--- kernel   (sent frames)    |
//!  | Anchor socket (xsk-rs): tx; the host link's |
//!  |   and pktgen's: rx, too                     |  slot 0 of XSKMAP
//!  +---------------------------------------------+
//!  | RxSocket (plain socket API): rx             |  a compartment's slot, or 0: the groups'; shares the pool
//!  | RxSocket ...                                |
//!  ```
//!
//! * All of a queue belongs to one worker thread; it is made by the control thread and sent over.
//! * A [`Frame`] is an owned token for one frame of a UMEM: it cannot be copied, sending consumes it, completion and
//!   reception give it out. [`Umem`] also notes the whereabouts of each frame, so that a descriptor from the kernel for a
//!   frame that it should not have is refused, and a lost frame is found by [`Umem::account`].
//! * pktgen (`tools/`) uses anchors alone, so they are public.
//! * Needs CAP_NET_RAW (sockets), CAP_NET_ADMIN and locked memory.

mod anchor;
mod bind;
mod rx_ring;
mod rx_socket;
mod umem;

pub use anchor::Anchor;
pub use bind::{BindRequest, Bound, bind_anchor};
pub(crate) use rx_socket::RxSocket;
pub use umem::{Account, Frame, Piece, Umem};

/// A received descriptor: address within the UMEM, length, options; as the kernel gave it, not yet checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct RxDesc {
    /// Byte offset in the UMEM.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// XDP_PKT_CONTD: the packet goes on in the next descriptor.
    pub options: u32,
}

/// XDP_PKT_CONTD of if_xdp.h.
pub(crate) const PKT_CONTD: u32 = 1;

impl RxDesc {
    /// Whether the next descriptor belongs to the same packet.
    pub fn continues(&self) -> bool {
        self.options & PKT_CONTD != 0
    }
}
