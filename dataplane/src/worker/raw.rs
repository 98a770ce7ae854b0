//! Packets of `raw` endpoints: copied first, then checked on the copy, then routed by their own headers.

use afnet_abi::shm::{Record, kind};

use super::{
    copy::Bytes,
    queue::Queue,
    tx::{Out, Outcome, Sender},
    wire,
};
use crate::{
    counters::{Counter, Counters},
    net::{
        Drop,
        build::{Link, link_len},
        fragment::Refragment,
        icmp,
        parse::Packet,
        raw::validate,
    },
    route::Route,
};

impl Out<'_> {
    /// An IP packet of a raw endpoint; `route` if it is known already.
    pub(super) fn packet(
        &mut self,
        sender: &Sender<'_>,
        record: &Record,
        bytes: Bytes<'_>,
        route: Option<Route>,
    ) -> Outcome {
        if record.kind != kind::PACKET {
            return self.refuse(sender, Counter::TxRecordInvalid);
        }
        let mut scratch = std::mem::take(&mut self.core.scratch);
        let outcome = self.checked(sender, record, bytes, route, &mut scratch);
        self.core.scratch = scratch;
        outcome
    }

    fn checked(
        &mut self,
        sender: &Sender<'_>,
        record: &Record,
        bytes: Bytes<'_>,
        route: Option<Route>,
        scratch: &mut [u8],
    ) -> Outcome {
        if bytes.read_summed(0..bytes.len(), scratch).is_none() {
            return self.refuse(sender, Drop::TxMalformed);
        }
        let packet = scratch.get(..bytes.len()).unwrap_or_default();
        let slot = self.core.slot(sender.slot);
        let view = match validate(packet, |src| slot.is_some_and(|slot| slot.may_send_from(src))) {
            Ok(view) => view,
            Err(reason) => return self.refuse(sender, reason),
        };
        let packet = packet.get(..view.end).unwrap_or_default();
        let route = match route {
            Some(route) => Some(route),
            None => self.look_up(sender, record, view.src, view.dst, Bytes::Private(packet)),
        };
        let Some(route) = route else { return Outcome::Done };
        let about = Record { local: view.src, remote: view.dst, local_port: 0, remote_port: 0, ..*record };
        match self.learned(sender.slot, &view.dst, route) {
            route @ Route::Wire { ifindex, .. } if self.elsewhere(ifindex).is_some() => {
                self.hand_over(sender, record, Bytes::Private(packet), route)
            }
            Route::Wire { ifindex, vlan, src_mac, dst_mac, mtu, .. } => {
                let link = Link { src_mac, dst_mac, vlan };
                let id = self.core.ids.next(&view.src, &view.dst);
                let Some(queue) = self.devices.iter_mut().find(|q| q.ifindex == ifindex) else {
                    return self.refuse(sender, Counter::TxNoQueue);
                };
                match put(queue, &self.core.counters, &link, mtu, packet, &view, id) {
                    Ok(()) => {
                        sender.sent(1, packet.len());
                        Outcome::Done
                    }
                    Err(None) => Outcome::Later,
                    Err(Some(reason)) => {
                        if reason == Drop::TxTooBig {
                            self.complain(sender, &about, &icmp::too_big(mtu));
                        }
                        self.refuse(sender, reason)
                    }
                }
            }
            Route::Local { slot, .. } if self.forbidden(sender.slot, Some(slot)) => {
                self.forbid(sender, &about)
            }
            Route::Host { .. } if self.forbidden(sender.slot, None) => self.forbid(sender, &about),
            Route::Local { slot, .. } => self.local_packet(sender, packet, &view, slot),
            Route::Host { .. } => self.host_packet(sender, packet, &view),
            Route::Unreachable { errno } => {
                self.complain(sender, &about, &icmp::unreachable(u32::try_from(errno).unwrap_or_default()));
                self.refuse(sender, Counter::TxUnreachable)
            }
            Route::Pending | Route::Learn { .. } => self.refuse(sender, Counter::TxUnreachable),
        }
    }
}

/// Sends an IP packet, cut if it exceeds `mtu` and may be cut. `Err(None)`: no room now.
pub(super) fn put(
    queue: &mut Queue,
    counters: &Counters,
    link: &Link,
    mtu: u32,
    packet: &[u8],
    view: &Packet,
    id: u32,
) -> Result<(), Option<Drop>> {
    let mtu = mtu as usize;
    let largest = link_len(link.vlan) + packet.len().min(mtu);
    let each = wire::frames_for(queue, largest).ok_or(Some(Drop::TxLength))?;
    // Headers that are repeated make pieces smaller; 8 bytes is the least that one carries.
    let pieces =
        if packet.len() <= mtu { 1 } else { packet.len() / mtu.saturating_sub(view.l4 + 16).max(8) + 1 };
    let frames = each * pieces;
    if frames > wire::capacity(queue) {
        return Err(Some(Drop::TxLength));
    }
    if queue.anchor.tx_room() < frames {
        return Err(None);
    }
    let sent = if packet.len() <= mtu {
        wire::put_packet(queue, counters, link, view.v6, packet)
    } else {
        // A tenant's own IPv6 fragment or a packet with Don't Fragment cannot be cut.
        let mut pieces = Refragment::new(packet, view, mtu, id).map_err(Some)?;
        wire::put_pieces(queue, counters, link, view.v6, &mut pieces)
    };
    if sent { Ok(()) } else { Err(Some(Drop::TxLength)) }
}
