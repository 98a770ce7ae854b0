//! The host link in operation: veth pair, its XDP program, the workers' sockets on it.

use afnet_bpf::{AttachMode, HostDemux};
use afnet_dataplane::Dataplane;

use super::device::{XskMap, bpf, dataplane_error};
use crate::error::Refused;
use crate::names::Instance;
use crate::netlink::Netlink;
use crate::netlink::host_link::HostLink;

/// Largest MTU of the pair: its program takes frames of one buffer.
const MAX_MTU: u32 = 3498;

/// The running host link.
#[derive(Debug)]
pub struct Host {
    /// The pair.
    pub link: HostLink,
    demux: HostDemux,
}

impl Host {
    /// Makes the pair and attaches the program: one queue for each worker, so that each has its own way.
    pub fn create(
        netlink: &mut Netlink,
        instance: &Instance,
        workers: usize,
        mtu: u32,
    ) -> Result<Self, Refused> {
        let queues = u32::try_from(workers).unwrap_or(1);
        let (kernel, worker) = instance.host_link();
        let link = HostLink::create(netlink, (&kernel, &worker), queues, mtu.clamp(1500, MAX_MTU))?;
        let load = || -> Result<HostDemux, afnet_bpf::Error> {
            let mut demux = HostDemux::load(queues)?;
            demux.attach(link.worker.ifindex, AttachMode::Native)?;
            Ok(demux)
        };
        match load() {
            Ok(demux) => Ok(Self { link, demux }),
            Err(e) => {
                link.remove(netlink);
                Err(bpf(format!("attaching the host link's program to {worker}"), &e))
            }
        }
    }

    /// Binds the workers' sockets.
    pub fn bind(&self, dataplane: &mut Dataplane) -> Result<(), Refused> {
        let worker = &self.link.worker;
        let what = || format!("binding AF_XDP sockets to {}", worker.name);
        let sockets = self.demux.sockets().map_err(|e| bpf(what(), &e))?;
        let link = afnet_dataplane::HostLink {
            name: worker.name.clone(),
            ifindex: worker.ifindex,
            mac: worker.mac.unwrap_or_default(),
            kernel_mac: self.link.kernel.mac.unwrap_or_default(),
            mtu: worker.mtu,
            queues: self.link.queues,
            sockets: Box::new(XskMap(sockets)),
        };
        dataplane.add_host_link(link).map_err(|e| dataplane_error(what(), &e))
    }

    /// Frames from the kernel to the workers, and those that found no socket.
    pub fn counters(&self) -> Result<(u64, u64), Refused> {
        let counters = self.demux.counters().map_err(|e| bpf("counters of the host link", &e))?;
        Ok((counters.redirected, counters.no_socket))
    }

    /// Removes all of it.
    pub fn remove(mut self, netlink: &mut Netlink) {
        self.demux.detach();
        self.link.remove(netlink);
    }
}
