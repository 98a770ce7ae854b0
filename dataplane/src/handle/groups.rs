//! Who is in which group. The sockets of slot 0, where frames to groups go, are there while somebody is in one.

use std::{collections::btree_map::Entry, sync::Arc};

use super::{Dataplane, endpoints::SlotState};
use crate::{
    config::Compartment,
    error::Error,
    groups::{Group, Local, Sources},
    worker::{command::Command, groups::SLOT},
};

impl Dataplane {
    /// What an endpoint hears in a group from now on, instead of what was said before; [`Sources::none`]: it leaves. A
    /// `udp` endpoint hears the ports that it has claimed on all addresses, or on the group. The kernel gets nothing of a
    /// new group; see [`Dataplane::set_group_kernel`]. What sockets of this host send there it hears `local`.
    ///
    /// The XDP program must be told of groups by the caller, once the first endpoint has joined, and once the last has left;
    /// what it redirects in between goes on to the kernel.
    ///
    /// # Errors
    /// [`Error::Unknown`] endpoint, [`Error::Io`] and [`Error::SocketMap`] if the kernel refuses the sockets,
    /// [`Error::Worker`].
    pub fn listen(&mut self, id: u64, group: &Group, wanted: Sources, local: Local) -> Result<(), Error> {
        self.slot_of(id)?;
        let leaves = wanted.is_none();
        if !leaves {
            self.open_group_sockets()?;
        }
        let wanted = Arc::new(wanted);
        self.call_all(|_| Command::Listen { id, group: *group, wanted: Arc::clone(&wanted), local })?;
        if leaves { self.left(id, group) } else { self.joined(id, group) }
    }

    /// Whether the kernel gets what is sent to a group that endpoints are in, too, over the host link.
    ///
    /// # Errors
    /// [`Error::Worker`].
    pub fn set_group_kernel(&mut self, group: &Group, kernel: bool) -> Result<(), Error> {
        self.call_all(|_| Command::GroupKernel { group: *group, kernel })
    }

    /// Number of endpoints in a group.
    pub fn members(&self, group: &Group) -> usize {
        self.groups.get(group).map_or(0, |members| members.len())
    }

    fn joined(&mut self, id: u64, group: &Group) -> Result<(), Error> {
        self.groups.entry(*group).or_default().insert(id);
        self.settle()
    }

    fn left(&mut self, id: u64, group: &Group) -> Result<(), Error> {
        if let Entry::Occupied(mut members) = self.groups.entry(*group) {
            members.get_mut().remove(&id);
            if members.get().is_empty() {
                members.remove();
            }
        }
        self.settle()
    }

    /// An endpoint is gone; the workers forget it by themselves.
    pub(super) fn leave_all(&mut self, id: u64) -> Result<(), Error> {
        self.groups.retain(|_, members| {
            members.remove(&id);
            !members.is_empty()
        });
        self.settle()
    }

    fn open_group_sockets(&mut self) -> Result<(), Error> {
        if self.slots.get(&SLOT).is_some_and(|state| state.endpoints > 0) {
            return Ok(());
        }
        let workers = self.workers.len();
        self.slots.entry(SLOT).or_insert_with(|| SlotState::new(workers));
        let nothing = Arc::new(Compartment::default());
        self.call_all(|_| Command::Compartment { slot: SLOT, compartment: Arc::clone(&nothing) })?;
        self.open_sockets(SLOT, None).inspect_err(|_| {
            // What is there already goes again; the first error is the one to tell.
            let _ = self.close_sockets(SLOT);
        })
    }

    /// The sockets go with the last group.
    fn settle(&mut self) -> Result<(), Error> {
        let groups = self.groups.len();
        let Some(state) = self.slots.get_mut(&SLOT) else { return Ok(()) };
        let before = std::mem::replace(&mut state.endpoints, groups);
        if groups == 0 && before > 0 { self.close_sockets(SLOT) } else { Ok(()) }
    }
}
