//! Sockets of addresses that go: their connections are closed, so that both ends know.

use std::io;
use std::net::IpAddr;

use super::core::Core;
use crate::netlink::sock_diag::{Error, SockDiag, Which};
use crate::registry::{Owned, Slot};

/// Closes them.
#[derive(Debug)]
pub struct Sockets {
    diag: SockDiag,
    /// That this kernel cannot is said once.
    told: bool,
}

impl Sockets {
    /// In the network namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        Ok(Self { diag: SockDiag::open()?, told: false })
    }

    /// TCP connections and connected UDP sockets; listeners and bound sockets are the programs' to close.
    fn close(&mut self, owned: &Owned, gone: impl Fn(IpAddr) -> bool) -> usize {
        let mut closed = 0;
        for which in [Which::TcpConnections, Which::UdpConnected] {
            match self.diag.destroy_local(owned.prefix(), which, &gone) {
                Ok(count) => closed += count,
                Err(Error::Unsupported) if self.told => {}
                Err(e) => {
                    self.told |= e == Error::Unsupported;
                    tracing::warn!("the connections of {} are not closed: {e}", owned.text());
                }
            }
        }
        closed
    }
}

impl Core {
    /// Closes the connections of what `slot` owns no more, and says whether there were some. An address of a prefix
    /// that is the host's, or by a longer match somebody else's, was never the prefix's; one that the same compartment
    /// has by another prefix, or on another device, stays.
    pub(super) fn close_connections(&mut self, slot: Slot, owned: &Owned) -> bool {
        if !owned.in_kernel() {
            return false;
        }
        let (registry, mirror) = (&self.registry, &self.mirror);
        let gone = |address| {
            let holder = registry.kernel_match(address);
            let kept = holder.is_some_and(|(s, o)| s == slot || o.prefix().len > owned.prefix().len);
            !kept && mirror.host_address(address).is_none()
        };
        let closed = self.sockets.close(owned, gone);
        if closed > 0 {
            tracing::info!("{closed} connections of {} closed", owned.text());
        }
        closed > 0
    }
}
