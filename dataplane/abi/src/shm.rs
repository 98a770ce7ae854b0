//! Layout of an endpoint: one sealed memfd that afnetd creates and a tenant maps.
//!
//! ```text
//! 0                 +------------------------------+
//!                   | Header (read-only after      |
//!                   | creation), rest of page zero |
//! HEADER_LEN        +------------------------------+  <- worker 0
//!                   | RingControl rx               |  worker produces, tenant consumes
//!                   | RingControl tx               |  tenant produces, worker consumes
//!                   | rest of page zero            |
//!        +CTL_LEN   | rx data, rx_len bytes        |
//!                   | tx data, tx_len bytes        |
//!                   +------------------------------+  <- worker 1 ...
//! ```
//!
//! A ring is a byte ring of [`Record`]s. Positions are free-running byte counts (`u64`, never wrap in
//! practice), always multiples of [`RECORD_ALIGN`]; the place in the data area is `position & (len - 1)`.
//! A record is its 64-byte descriptor followed by its payload, padded to [`RECORD_ALIGN`], and is always
//! contiguous: a producer that meets the end of the area writes a [`kind::PAD`] record over the rest.
//!
//! Every word has one writer. Both sides can write all of the memory all the same, so each side treats every
//! word of the other's as hostile: it reads the word once, checks the copy and uses only the copy. Each keeps
//! its own positions in private memory; the shared ones are only announcements.
//!
//! Sleeping: a side that is about to sleep makes its sleep word odd (+1), then a full fence, then looks at
//! the ring once more; on waking it makes the word even (+1). A side that has published checks, after a full
//! fence, the other's word: odd and not yet rung for this value -> ring the doorbell once. So doorbells are
//! rung at most once for each sleep, and a busy pair never makes a system call.
//!
//! | direction | doorbell (eventfd) | sleep word | meaning |
//! |---|---|---|---|
//! | rx data for the tenant | `wake` | rx.consumer.sleep | the tenant waits for datagrams |
//! | tx data for the worker | `doorbells[worker]` | tx.consumer.sleep | the worker has *parked* this ring |
//! | tx space for the tenant | `wake` | tx.producer.sleep | the tenant waits for room |

/// First word of the header: "afnetshm" in memory order.
pub const MAGIC: u64 = u64::from_le_bytes(*b"afnetshm");
/// Length in bytes of the page that holds [`Header`].
pub const HEADER_LEN: usize = 4096;
/// Length in bytes of the page that holds a worker's two [`RingControl`]s.
pub const CTL_LEN: usize = 4096;
/// Records start at multiples of this many bytes: one cache line, so that neighbours never share one.
pub const RECORD_ALIGN: usize = 64;
/// Longest payload of a record in bytes: a full IP packet or UDP datagram.
pub const MAX_PAYLOAD: usize = 65535;
/// Most bytes of a quoted datagram in a record of [`kind::ERROR`]: routers quote no more than fits 1280 (RFC 4443 2.4 c).
pub const MAX_QUOTE: usize = 1280;
/// Smallest ring in bytes. Two of the longest records must fit, or a pad record could block a long one forever.
pub const MIN_RING_LEN: usize = 256 << 10;
/// Largest ring in bytes; bounds what one attachment can pin.
pub const MAX_RING_LEN: usize = 64 << 20;
/// Most workers of one daemon.
pub const MAX_WORKERS: usize = 64;

/// Values of [`Record::kind`].
pub mod kind {
    /// Filler up to the end of the data area; `len` counts the bytes after the descriptor.
    pub const PAD: u8 = 0;
    /// A UDP payload (`udp` endpoints).
    pub const DATAGRAM: u8 = 1;
    /// A whole IP packet from its IP header on (`raw` endpoints).
    pub const PACKET: u8 = 2;
    /// RX only: an ICMP error about a datagram that this endpoint sent. `local` and `remote` are those of the
    /// datagram, the payload is one [`super::ErrorInfo`] and behind it what was quoted of the datagram's contents, at
    /// most [`super::MAX_QUOTE`] bytes.
    pub const ERROR: u8 = 3;
    /// TX only, no payload: from here on the kernel gets what comes for this endpoint. The RX ring gets nothing more once
    /// the worker has consumed this.
    pub const LEAVE: u8 = 4;
}

/// Values of [`Header::kind`].
pub mod endpoint_kind {
    /// Datagrams of claimed UDP ports.
    pub const UDP: u32 = 1;
    /// All IP packets of the compartment.
    pub const RAW: u32 = 2;
}

/// Bits of [`Record::flags`].
pub mod flags {
    /// TX: set Don't Fragment; a datagram above the path MTU is dropped and comes back as an
    /// [`super::kind::ERROR`] with the MTU (RFC 1191, 8201). Without it the worker fragments.
    pub const DONT_FRAGMENT: u16 = 1 << 0;
    /// RX: the sender transmitted no UDP checksum (IPv4 only, RFC 768).
    pub const NO_CHECKSUM: u16 = 1 << 1;
    /// RX: the payload was reassembled from fragments.
    pub const REASSEMBLED: u16 = 1 << 2;
    /// RX: delivered from a compartment of this host or the host itself, never seen on the wire.
    pub const LOCAL: u16 = 1 << 3;
    /// TX: of a datagram to a group no copies go to members on this host (IP_MULTICAST_LOOP off).
    pub const NO_LOOP: u16 = 1 << 4;
    /// TX: no datagram to send but a received one to give back: the kernel gets it, as from `remote` to `local`, for the
    /// socket that the claim is an overlay on. Not those of the loopback.
    pub const GIVE_BACK: u16 = 1 << 5;
}

/// First page of an endpoint. Written by afnetd before the tenant gets the memfd; afnetd never reads it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`crate::ABI_VERSION`] of the daemon.
    pub abi_version: u32,
    /// One of [`endpoint_kind`].
    pub kind: u32,
    /// Number of workers, 1 to [`MAX_WORKERS`]: that many pairs of rings follow.
    pub workers: u32,
    /// Zero.
    pub reserved: u32,
    /// Bytes of each worker's RX data area: a power of two, [`MIN_RING_LEN`] to [`MAX_RING_LEN`].
    pub rx_len: u64,
    /// Bytes of each worker's TX data area, likewise.
    pub tx_len: u64,
}

/// Words that a ring's producer writes; a cache line of its own.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct ProducerLine {
    /// Bytes produced since creation.
    pub position: core::sync::atomic::AtomicU64,
    /// Odd while the producer sleeps for want of room.
    pub sleep: core::sync::atomic::AtomicU32,
}

/// Words that a ring's consumer writes; a cache line of its own.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct ConsumerLine {
    /// Bytes consumed since creation.
    pub position: core::sync::atomic::AtomicU64,
    /// Odd while the consumer sleeps for want of records.
    pub sleep: core::sync::atomic::AtomicU32,
}

/// Shared words of one ring, two cache lines.
#[derive(Debug, Default)]
#[repr(C)]
pub struct RingControl {
    /// Written by the producer only.
    pub producer: ProducerLine,
    /// Written by the consumer only.
    pub consumer: ConsumerLine,
}

/// Descriptor of one datagram, packet or error: 64 bytes, followed by `len` bytes of payload.
///
/// Numbers are in host byte order, addresses in network order as 16 bytes; an IPv4 address is IPv4-mapped
/// (`::ffff:a.b.c.d`, RFC 4291 2.5.5.2), and that alone tells the family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Record {
    /// Bytes of payload after this descriptor, at most [`MAX_PAYLOAD`] (a pad record: up to the end of the area).
    pub len: u32,
    /// One of [`kind`].
    pub kind: u8,
    /// IPv4 TTL or IPv6 hop limit. TX: 0 stands for the host's default, 64.
    pub ttl: u8,
    /// IPv4 TOS or IPv6 traffic class: DSCP and ECN (RFC 3168).
    pub tos: u8,
    /// Zero.
    pub reserved: u8,
    /// Bits of [`flags`].
    pub flags: u16,
    /// TX: cut the payload into datagrams of this many bytes, the last may be shorter (as UDP_SEGMENT); 0: one
    /// datagram. RX: 0.
    pub segment: u16,
    /// UDP port of the compartment's side. TX: one that the endpoint has claimed; 0: its first claim.
    pub local_port: u16,
    /// UDP port of the other side.
    pub remote_port: u16,
    /// Realm: [`crate::vlan::Vlan::raw`] of the frame. TX: ignored unless `ifindex` is set.
    pub vlan: u32,
    /// Realm: the device's interface index, 0 for local delivery. TX: 0 lets the routing table choose.
    pub ifindex: u32,
    /// RX: when the worker took the frame's batch from the device, nanoseconds of CLOCK_REALTIME. TX: 0.
    pub timestamp_ns: u64,
    /// Address of the compartment's side. TX: `::` lets afnet choose by RFC 6724.
    pub local: [u8; 16],
    /// Address of the other side.
    pub remote: [u8; 16],
}

/// Start of a [`kind::ERROR`] record's payload: what an ICMP error said (as struct sock_extended_err would).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ErrorInfo {
    /// errno that a kernel UDP socket would report for this error: ECONNREFUSED, EMSGSIZE, EHOSTUNREACH ...
    pub errno: u32,
    /// ICMP or ICMPv6 type.
    pub icmp_type: u8,
    /// ICMP or ICMPv6 code.
    pub icmp_code: u8,
    /// Zero.
    pub reserved: u16,
    /// Path MTU in bytes where the error is about size, else 0.
    pub mtu: u32,
    /// Who sent the error (IPv4-mapped like the others); `::` for errors of this host.
    pub offender: [u8; 16],
}

/// Byte offset of worker `worker`'s ring controls in the memfd.
pub const fn worker_offset(worker: usize, rx_len: usize, tx_len: usize) -> usize {
    HEADER_LEN + worker * (CTL_LEN + rx_len + tx_len)
}

/// Length in bytes of the whole memfd.
pub const fn total_len(workers: usize, rx_len: usize, tx_len: usize) -> usize {
    worker_offset(workers, rx_len, tx_len)
}

/// Bytes that a record with `payload` bytes occupies in a ring.
pub const fn record_len(payload: usize) -> usize {
    (size_of::<Record>() + payload).next_multiple_of(RECORD_ALIGN)
}

/// Whether `len` is a permitted length of a ring's data area.
pub const fn valid_ring_len(len: usize) -> bool {
    len.is_power_of_two() && len >= MIN_RING_LEN && len <= MAX_RING_LEN
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Record>() == 64);
    assert!(offset_of!(Record, local) == 32 && offset_of!(Record, remote) == 48);
    assert!(offset_of!(Record, timestamp_ns) == 24);
    assert!(size_of::<RingControl>() == 128 && offset_of!(RingControl, consumer) == 64);
    assert!(size_of::<ErrorInfo>() == 28);
    assert!(size_of::<Header>() == 40 && HEADER_LEN >= size_of::<Header>());
    assert!(2 * record_len(MAX_PAYLOAD) <= MIN_RING_LEN);
};
