//! Two things that only the ethtool ioctl tells or sets: channels in use, and transmit checksum offload.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use rustix::net::{AddressFamily, SocketType, socket};

/// From linux/sockios.h and linux/ethtool.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// struct ethtool_channels.
#[derive(Default)]
#[repr(C)]
struct Channels {
    cmd: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// struct ethtool_value.
#[repr(C)]
struct Value {
    cmd: u32,
    data: u32,
}

/// RX queues that a device uses now; `None` if its driver does not tell.
pub fn rx_queues(name: &str) -> Option<u32> {
    let mut channels = Channels { cmd: ETHTOOL_GCHANNELS, ..Channels::default() };
    // SAFETY: ETHTOOL_GCHANNELS reads and writes one struct ethtool_channels.
    unsafe { ethtool(name, ptr::from_mut(&mut channels).cast()) }.ok()?;
    let queues = channels.rx + channels.combined;
    (queues > 0).then_some(queues)
}

/// Makes the kernel compute checksums before frames leave by this device.
///
/// Frames of the kernel otherwise cross a veth pair with half-made checksums, which only another kernel stack accepts.
pub fn no_tx_checksum_offload(name: &str) -> io::Result<()> {
    let mut value = Value { cmd: ETHTOOL_STXCSUM, data: 0 };
    // SAFETY: ETHTOOL_STXCSUM reads one struct ethtool_value.
    unsafe { ethtool(name, ptr::from_mut(&mut value).cast()) }
}

/// # Safety
/// `command` points to the structure that its first member, the command, stands for.
unsafe fn ethtool(name: &str, command: *mut libc::c_char) -> io::Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: command },
    };
    // The last byte stays 0.
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: an ifreq whose data pointer the caller vouches for; the descriptor is open.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
