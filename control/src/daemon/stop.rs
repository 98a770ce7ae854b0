//! Going: nothing is left behind, unless that is wanted.

use std::time::{Duration, Instant};

use afnet_abi::control::AddressState;
use rustix::io::Errno;
use rustix::process::Signal;

use super::address::remove_from_kernel;
use super::compartment::GRACE;
use super::core::Core;
use super::probe::by_kernel;
use crate::system::bpffs;

impl Core {
    /// Ends everything. `keep`: the XDP program, the kernel's addresses, cgroups and state stay for the next start.
    pub fn stop(mut self, keep: bool) {
        if !keep {
            self.end_processes();
            let slots: Vec<_> = self.registry.iter().map(|(slot, _)| slot).collect();
            slots.into_iter().for_each(|slot| self.remove_loopback(slot));
            // From here on the kernel alone serves what is left of the addresses.
            for live in self.devices.iter_mut().filter_map(|d| d.live.as_mut()) {
                if let Err(e) = live.demux.detach() {
                    tracing::error!("detaching the XDP program from {}: {e}", live.link.name);
                }
            }
        }
        let Self { dataplane, host, mut netlink, devices, registry, store, instance, kernel_path, .. } = self;
        match dataplane.shutdown() {
            Ok(audit) => report(&audit),
            Err(e) => tracing::error!("stopping the workers: {e}"),
        }
        if let Some(host) = host {
            host.remove(&mut netlink);
        }
        if keep {
            return;
        }
        kernel_path.detach();
        for (_, compartment) in registry.iter() {
            for owned in compartment
                .addresses
                .iter()
                .filter(|o| o.in_kernel() && (o.state == AddressState::Ok || by_kernel(o)))
            {
                let live = devices.get(usize::from(owned.realm.device)).and_then(|d| d.live.as_ref());
                let Some(live) = live else { continue };
                match remove_from_kernel(&mut netlink, owned, live.link.ifindex) {
                    Err(e) if owned.state == AddressState::Ok || e.errno != Errno::ADDRNOTAVAIL => {
                        tracing::warn!("taking {} from the kernel: {e}", owned.text());
                    }
                    _ => {}
                }
            }
        }
        drop(devices);
        bpffs::remove(&instance.pin_dir());
        store.remove_all();
    }

    /// Ends the processes of all compartments, as their removal would, and removes the cgroups.
    fn end_processes(&mut self) {
        let alive = |core: &Self| -> Vec<String> {
            core.cgroups.names().into_iter().filter(|name| core.cgroups.remove(name).is_err()).collect()
        };
        let start = Instant::now();
        let mut left = alive(self);
        left.iter().for_each(|name| self.cgroups.signal(name, Signal::TERM));
        let mut killed = false;
        while !left.is_empty() && start.elapsed() < 2 * GRACE {
            if start.elapsed() > GRACE && !killed {
                left.iter().for_each(|name| self.cgroups.signal(name, Signal::KILL));
                killed = true;
            }
            std::thread::sleep(Duration::from_millis(5));
            left = alive(self);
        }
        left.iter().for_each(|name| tracing::error!("the cgroup of {name} cannot be removed"));
        self.cgroups.remove_base();
    }
}

/// One line for each queue: where its frames were.
fn report(audit: &afnet_dataplane::FrameAudit) {
    for q in &audit.queues {
        tracing::info!(
            "frames of interface {} queue {}: {} = {} free + {} fill + {} tx + {} lost, {} foreign",
            q.ifindex,
            q.queue,
            q.total,
            q.free,
            q.fill,
            q.tx,
            q.lost,
            q.foreign
        );
    }
    match audit.lost() {
        0 => tracing::info!("frame audit: 0 lost"),
        lost => tracing::error!("frame audit: {lost} lost"),
    }
}
