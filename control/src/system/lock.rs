//! One daemon for each device: an abstract Unix socket named after the interface index. It is bound to the network
//! namespace, as the interface index is, and the kernel releases it when the process ends in whatever way.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::io::Errno;

use crate::error::Refused;

/// The lock on a device, held while the value lives.
#[derive(Debug)]
pub struct DeviceLock(#[expect(dead_code, reason = "held, not used")] UnixDatagram);

impl DeviceLock {
    /// Takes the lock or refuses with EBUSY.
    pub fn take(ifindex: u32, name: &str) -> Result<Self, Refused> {
        let bind = || {
            let address = SocketAddr::from_abstract_name(format!("afnet-dev-{ifindex}"))?;
            UnixDatagram::bind_addr(&address)
        };
        bind().map(Self).map_err(|e| match e.kind() {
            io::ErrorKind::AddrInUse => Refused::new(
                Errno::BUSY,
                format!("another afnetd owns {name}: stop it first, or leave {name} out of this one"),
            ),
            _ => Refused::io(format!("locking {name}"), &e),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_one_owner_at_a_time() {
        // No interface has an index of this size.
        let index = 0x7fff_0000 | std::process::id() & 0xffff;
        let first = DeviceLock::take(index, "x0").unwrap();
        let second = DeviceLock::take(index, "x0").unwrap_err();
        assert_eq!(second.errno, Errno::BUSY);
        assert!(second.message.contains("another afnetd owns x0"));
        drop(first);
        DeviceLock::take(index, "x0").unwrap();
    }
}
