//! Settings of the dataplane, and descriptions of what control hands to it.

use std::{
    fmt, io,
    net::IpAddr,
    os::fd::{BorrowedFd, OwnedFd},
    sync::atomic::AtomicU64,
};

use afnet_abi::{
    shm::{self, MAX_WORKERS},
    vlan::Vlan,
};

use crate::error::Error;

/// What a worker does when it finds nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WakeMode {
    /// Never sleeps; yields the CPU between empty loops. Lowest latency, a whole CPU.
    Busy,
    /// Spins (yielding) for some tens of microseconds after the last work, then sleeps until a socket or a
    /// doorbell calls.
    #[default]
    Adaptive,
    /// Sleeps as soon as there is nothing to do.
    Interrupt,
}

/// Settings, fixed for the life of a [`crate::Dataplane`].
#[derive(Clone, Debug)]
pub struct Config {
    /// One worker for each entry, pinned to that CPU if given. 1 to [`afnet_abi::shm::MAX_WORKERS`] entries.
    pub workers: Vec<Option<usize>>,
    /// How workers wait.
    pub wake: WakeMode,
    /// Bytes of a UMEM frame: 2048 or 4096. Longer frames take several (multi-buffer).
    pub frame_size: u32,
    /// Frames in the UMEM of each queue; power of two, at least 512. Memory: `frame_size` times this. They go round, so
    /// more than the caches hold cost speed (8192 instead of 2048: a third at 1400 bytes), fewer cost bursts.
    pub frames_per_queue: u32,
    /// Descriptors in the RX and TX rings of anchor sockets; power of two.
    pub rx_ring: u32,
    /// Descriptors in the RX ring of each compartment's socket; power of two. Bounds a burst that a compartment
    /// survives without loss, and the frames that a flooded one can keep from the others: a third of those lent to the
    /// kernel (three quarters of all).
    pub compartment_rx_ring: u32,
    /// Number of slots, slot 0 (the host's) included: the size of the BPF maps.
    pub slots: u32,
    /// Bytes of unfinished fragments that each compartment may hold, in each worker.
    pub reassembly_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: vec![None],
            wake: WakeMode::default(),
            frame_size: 2048,
            frames_per_queue: 2048,
            rx_ring: 2048,
            compartment_rx_ring: 512,
            slots: 4096,
            reassembly_bytes: 256 << 10,
        }
    }
}

impl Config {
    /// Checks all numbers.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let bad = |what: String| Err(Error::Config(what));
        if self.workers.is_empty() || self.workers.len() > MAX_WORKERS {
            return bad(format!("{} workers, must be 1 to {MAX_WORKERS}", self.workers.len()));
        }
        if !matches!(self.frame_size, 2048 | 4096) {
            return bad(format!("frame size {}, must be 2048 or 4096", self.frame_size));
        }
        let powers = [
            ("frames per queue", self.frames_per_queue, 512, 1 << 20),
            ("RX ring", self.rx_ring, 64, 1 << 15),
            ("compartment RX ring", self.compartment_rx_ring, 64, 1 << 15),
        ];
        for (what, value, least, most) in powers {
            if !value.is_power_of_two() || !(least..=most).contains(&value) {
                return bad(format!("{what} {value}, must be a power of two from {least} to {most}"));
            }
        }
        if !(2..=1 << 20).contains(&self.slots) {
            return bad(format!("{} slots, must be 2 to {}", self.slots, 1 << 20));
        }
        // Below the longest packet nothing useful can be put together.
        if self.reassembly_bytes < shm::MAX_PAYLOAD {
            return bad(format!(
                "{} bytes for reassembly, must be {} at least",
                self.reassembly_bytes,
                shm::MAX_PAYLOAD
            ));
        }
        Ok(())
    }
}

/// XSKMAP of a device: where the XDP program finds the socket of a (slot, queue). `afnet_bpf::Sockets` is one.
pub trait SocketMap: fmt::Debug + Send {
    /// Enters a socket.
    ///
    /// # Errors
    /// What the kernel says.
    fn set(&self, slot: u32, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()>;

    /// Takes it out; absent is fine.
    ///
    /// # Errors
    /// What the kernel says.
    fn clear(&self, slot: u32, queue: u32) -> io::Result<()>;
}

/// Bitmap of a device in which the XDP program marks slots that got something. `afnet_bpf::Dirty` is one.
pub trait DirtyMap: fmt::Debug + Send + Sync {
    /// Words of a queue: bit `slot % 64` of word `slot / 64`. Set by XDP, cleared by the worker.
    fn words(&self, queue: u32) -> &[AtomicU64];
}

/// How AF_XDP sockets are to be bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModePreference {
    /// Zero-copy, else copy.
    #[default]
    Best,
    /// Copy mode even if the driver could do without.
    Copy,
    /// Zero-copy or an error.
    ZeroCopy,
}

/// Mode that a queue's sockets run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueMode {
    /// The device writes into the UMEM.
    ZeroCopy,
    /// The kernel copies into the UMEM.
    Copy,
}

/// How the sockets of a device were bound, and why not better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeReport {
    /// Mode of all its queues.
    pub mode: QueueMode,
    /// Frames may take several UMEM frames (XDP_USE_SG).
    pub multi_buffer: bool,
    /// Preferred busy polling (SO_PREFER_BUSY_POLL) is on.
    pub busy_poll: bool,
    /// For each better mode that was tried: its name and what the kernel answered.
    pub refused: Vec<(&'static str, String)>,
}

/// A device that afnetd owns.
#[derive(Debug)]
pub struct Device {
    /// Interface name, in the network namespace of the calling thread.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
    /// MAC address.
    pub mac: [u8; 6],
    /// MTU in bytes, Ethernet header not included.
    pub mtu: u32,
    /// Number of RX/TX queues.
    pub queues: u32,
    /// Which socket mode to try.
    pub want: ModePreference,
    /// Its XSKMAP.
    pub sockets: Box<dyn SocketMap>,
    /// Its dirty bitmap.
    pub dirty: Box<dyn DirtyMap>,
}

/// The worker's side of the veth pair to the kernel.
#[derive(Debug)]
pub struct HostLink {
    /// Interface name of the worker's side.
    pub name: String,
    /// Interface index of the worker's side.
    pub ifindex: u32,
    /// MAC address of the worker's side.
    pub mac: [u8; 6],
    /// MAC address of the kernel's side: destination of what is delivered to the host.
    pub kernel_mac: [u8; 6],
    /// MTU in bytes of the pair.
    pub mtu: u32,
    /// Number of queues of the worker's side. Workers beyond that many have no way to the kernel: make it at least
    /// the number of workers.
    pub queues: u32,
    /// Its XSKMAP; slot 0 alone is used.
    pub sockets: Box<dyn SocketMap>,
}

/// Kind of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointKind {
    /// Datagrams of claimed UDP ports.
    Udp,
    /// All IP packets of the compartment; at most one for a compartment.
    Raw,
}

/// What a new endpoint's tenant gets.
#[derive(Debug)]
pub struct Attachment {
    /// The endpoint's number, never used again.
    pub id: u64,
    /// Shared memory, see [`afnet_abi::shm`].
    pub memfd: OwnedFd,
    /// eventfd that wakes the tenant.
    pub wake: OwnedFd,
    /// eventfd of each worker, rung by the tenant.
    pub doorbells: Vec<OwnedFd>,
}

/// What workers know of a compartment beside its endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compartment {
    /// What its tenants may send from.
    pub addresses: Vec<OwnedAddress>,
    /// Nothing passes between it and the host or other compartments.
    pub isolated: bool,
}

/// An address or delegated prefix of a compartment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnedAddress {
    /// The address, or the prefix's first.
    pub addr: IpAddr,
    /// Of an address: the on-link prefix; of a delegated prefix: its length.
    pub prefix_len: u8,
    /// Device of the realm.
    pub ifindex: u32,
    /// VLAN of the realm.
    pub vlan: Vlan,
    /// The whole prefix is the compartment's.
    pub delegated: bool,
    /// May be a source (not tentative, not duplicate).
    pub usable: bool,
    /// The kernel does not have it.
    pub fast_only: bool,
}

impl OwnedAddress {
    /// Whether `addr` is this address or within this delegated prefix.
    pub fn covers(&self, addr: IpAddr) -> bool {
        if !self.delegated {
            return self.addr == addr;
        }
        match (self.addr, addr) {
            (IpAddr::V4(net), IpAddr::V4(a)) => {
                let bits = u32::from(self.prefix_len.min(32));
                let shift = 32 - bits;
                (net.to_bits() ^ a.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(a)) => {
                let shift = 128 - u32::from(self.prefix_len.min(128));
                (net.to_bits() ^ a.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}
