//! Devices and the host link: their queues are bound here and spread over the workers, queue q to worker q modulo
//! the number of workers.

use std::{os::fd::OwnedFd, sync::Arc};

use super::Dataplane;
use crate::{
    config::{Device, HostLink, ModePreference, ModeReport, QueueMode, SocketMap, WakeMode},
    error::Error,
    reaper::grace_period,
    worker::{
        command::{Command, Reply},
        queue::{Queue, QueueKind},
    },
    xsk::{BindRequest, Bound, bind_anchor},
};

/// A device or the host link.
#[derive(Debug)]
pub(super) struct DeviceState {
    pub(super) name: String,
    pub(super) host: bool,
    pub(super) sockets: Box<dyn SocketMap>,
    /// The anchor of each queue: compartments' sockets are bound to its pool. Keeps the socket open, so it goes first
    /// when the device is removed.
    pub(super) anchors: Vec<OwnedFd>,
}

impl Dataplane {
    /// Takes a device over: binds a UMEM and an anchor socket for each queue and hands them to the workers. The XDP
    /// program should be attached already. Compartments that have endpoints get their sockets on it.
    ///
    /// # Errors
    /// [`Error::Bind`] with every mode's refusal; nothing is left behind then.
    pub fn add_device(&mut self, device: Device) -> Result<ModeReport, Error> {
        let Device { name, ifindex, mac, mtu, queues, want, sockets, dirty } = device;
        let dirty = Arc::from(dirty);
        let kind = |queue| QueueKind::Device { mac, mtu, dirty: Arc::clone(&dirty), queue };
        let report = self.add_queues(&name, ifindex, mtu, queues, want, sockets, false, kind)?;
        let slots: Vec<u32> =
            self.slots.iter().filter(|(_, state)| state.endpoints > 0).map(|(slot, _)| *slot).collect();
        for slot in slots {
            self.open_sockets(slot, Some(ifindex))?;
        }
        Ok(report)
    }

    /// Takes the worker's side of the veth pair to the kernel.
    ///
    /// # Errors
    /// As [`Dataplane::add_device`].
    pub fn add_host_link(&mut self, link: HostLink) -> Result<(), Error> {
        let HostLink { name, ifindex, mac, kernel_mac, mtu, queues, sockets } = link;
        let kind = |_| QueueKind::Host { mac, kernel_mac, mtu };
        self.add_queues(&name, ifindex, mtu, queues, ModePreference::Copy, sockets, true, kind)?;
        Ok(())
    }

    /// Gives a device (or the host link) back. Endpoints stay, without it.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Worker`].
    pub fn remove_device(&mut self, ifindex: u32) -> Result<(), Error> {
        let Some(device) = self.devices.remove(&ifindex) else {
            return Err(Error::Unknown { what: "device", number: ifindex.into() });
        };
        self.clear_device(&device, ifindex);
        for state in self.slots.values_mut() {
            state.forget_device(ifindex);
        }
        grace_period();
        self.reaper.wait();
        for (index, worker) in self.workers.iter().enumerate() {
            match worker.call(Command::RemoveQueues { ifindex }) {
                Ok(Reply::Queues(queues)) => drop(queues),
                _ => return Err(Error::Worker(index)),
            }
        }
        Ok(())
    }

    /// Tells the workers a device's new MAC address and MTU.
    ///
    /// # Errors
    /// [`Error::Worker`].
    pub fn device_changed(&mut self, ifindex: u32, mac: [u8; 6], mtu: u32) -> Result<(), Error> {
        self.call_all(|_| Command::Changed { ifindex, mac, mtu })
    }

    #[expect(clippy::too_many_arguments, reason = "the common part of a device and a host link")]
    fn add_queues(
        &mut self,
        name: &str,
        ifindex: u32,
        mtu: u32,
        queues: u32,
        want: ModePreference,
        sockets: Box<dyn SocketMap>,
        host: bool,
        kind: impl Fn(u32) -> QueueKind,
    ) -> Result<ModeReport, Error> {
        if self.devices.contains_key(&ifindex) {
            return Err(Error::Exists(format!("device {name} has been added already")));
        }
        if queues == 0 {
            return Err(Error::Config(format!("device {name} has no queues")));
        }
        let mut bound: Vec<Bound> = Vec::with_capacity(queues as usize);
        let mut want = want;
        for queue in 0..queues {
            let one = bind_anchor(&BindRequest {
                name,
                queue,
                mtu,
                want,
                frame_size: self.config.frame_size,
                frames: self.config.frames_per_queue,
                ring: self.config.rx_ring,
                busy_poll: self.config.wake != WakeMode::Interrupt,
            })?;
            // All queues run in the mode that the first one got.
            want = match one.mode {
                QueueMode::ZeroCopy => ModePreference::ZeroCopy,
                QueueMode::Copy => ModePreference::Copy,
            };
            bound.push(one);
        }
        let Some(first) = bound.first() else { return Err(Error::Config("no queues".to_owned())) };
        let report = ModeReport {
            mode: first.mode,
            multi_buffer: bound.iter().all(|b| b.multi_buffer),
            busy_poll: bound.iter().all(|b| b.busy_poll),
            refused: first.refused.clone(),
        };
        let mut anchors = Vec::with_capacity(bound.len());
        for one in &bound {
            let fd = one.anchor.fd().try_clone_to_owned();
            anchors.push(fd.map_err(|e| Error::io(format!("socket of {name}"), e))?);
        }
        let state = DeviceState { name: name.to_owned(), host, sockets, anchors };
        for (queue, one) in (0..).zip(bound) {
            let queue = Queue::new(ifindex, queue, one, kind(queue), self.config.slots);
            let index = queue.number() as usize % self.workers.len();
            let Some(worker) = self.workers.get(index) else { continue };
            match worker.call(Command::AddQueue(Box::new(queue))) {
                Ok(Reply::Done) => {}
                Ok(Reply::Failed(error)) => return Err(Error::io(format!("polling {name}"), error)),
                _ => return Err(Error::Worker(index)),
            }
        }
        if !host {
            // Workers beyond the number of queues have none: another one sends for them.
            for (index, worker) in self.workers.iter().enumerate().skip(queues as usize) {
                let command = Command::Elsewhere { ifindex, worker: index % queues as usize };
                worker.call(command).map_err(|()| Error::Worker(index))?;
            }
        }
        // Only now may frames come: slot 0 of the host link is the anchor's.
        for (queue, fd) in (0..).zip(&state.anchors).filter(|_| host) {
            use std::os::fd::AsFd;
            state.sockets.set(0, queue, fd.as_fd()).map_err(|e| Error::SocketMap {
                slot: 0,
                queue,
                reason: e.to_string(),
            })?;
        }
        self.devices.insert(ifindex, state);
        Ok(report)
    }

    fn clear_device(&self, device: &DeviceState, ifindex: u32) {
        for queue in 0..u32::try_from(device.anchors.len()).unwrap_or(0) {
            let slots =
                self.slots.iter().filter(|(_, s)| s.has_socket(ifindex, queue)).map(|(slot, _)| *slot);
            for slot in std::iter::once(0).chain(slots) {
                // A map that refuses is gone with its program: no frame comes by it either.
                let _ = device.sockets.clear(slot, queue);
            }
        }
    }

    /// Takes every socket out of every map.
    pub(super) fn clear_socket_maps(&self) {
        for (ifindex, device) in &self.devices {
            self.clear_device(device, *ifindex);
        }
    }
}
