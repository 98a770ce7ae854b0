//! Frames out of a queue: room, headers and payload into UMEM frames, several of them for jumbo frames.

use super::queue::Queue;
use crate::{
    counters::{Counter, Counters},
    net::{
        build::{Link, write_link},
        fragment::Refragment,
    },
};

/// Room for Ethernet header and two tags.
const LINK_MAX: usize = 24;
/// Longest piece that [`put_pieces`] makes: no device here has a larger MTU, and larger pieces would not be cut.
const PIECE_MAX: usize = 9216;

/// There is no free frame or no room in the TX ring now; there will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRoom;

/// UMEM frames that a frame of `len` bytes takes on `queue`; `None` if it cannot be sent there at all.
pub(crate) fn frames_for(queue: &Queue, len: usize) -> Option<usize> {
    let room = queue.anchor.umem().tx_room();
    if len <= room {
        return Some(1);
    }
    queue.multi_buffer.then(|| len.div_ceil(room))
}

/// Most UMEM frames that one record may take, so that it finds room some time: a quarter of them are never lent for
/// reception.
pub(crate) fn capacity(queue: &Queue) -> usize {
    queue.anchor.umem().total() / 4
}

/// Stages one frame that `write` makes in the packet room of a UMEM frame and tells the length of. `None` from `write`:
/// nothing is sent, which is not an error here.
#[inline]
pub(crate) fn put(
    queue: &mut Queue,
    counters: &Counters,
    write: impl FnOnce(&mut [u8]) -> Option<usize>,
) -> Result<(), NoRoom> {
    let mut frame = queue.anchor.umem_mut().alloc().ok_or(NoRoom)?;
    match write(queue.anchor.umem_mut().packet_mut(&mut frame)) {
        Some(len) => {
            queue.anchor.stage(frame, len, false);
            counters.inc(Counter::TxFrames);
        }
        None => queue.anchor.umem_mut().recycle(frame),
    }
    Ok(())
}

/// Stages one frame that consists of `head` and `body`, in as many UMEM frames as it takes. Too long for the queue:
/// nothing is sent, and `false` comes back.
pub(crate) fn put_bytes(
    queue: &mut Queue,
    counters: &Counters,
    head: &[u8],
    body: &[u8],
) -> Result<bool, NoRoom> {
    let len = head.len() + body.len();
    let Some(frames) = frames_for(queue, len) else { return Ok(false) };
    if queue.anchor.tx_room() < frames {
        return Err(NoRoom);
    }
    let room = queue.anchor.umem().tx_room();
    let mut from = 0;
    while from < len {
        let to = len.min(from + room);
        let mut frame = queue.anchor.umem_mut().alloc().ok_or(NoRoom)?;
        let out = queue.anchor.umem_mut().packet_mut(&mut frame);
        let first = head.get(from.min(head.len())..to.min(head.len())).unwrap_or_default();
        let second =
            body.get(from.saturating_sub(head.len())..to.saturating_sub(head.len())).unwrap_or_default();
        for (byte, source) in [(0, first), (first.len(), second)] {
            if let Some(place) = out.get_mut(byte..byte + source.len()) {
                place.copy_from_slice(source);
            }
        }
        queue.anchor.stage(frame, to - from, to < len);
        from = to;
    }
    counters.inc(Counter::TxFrames);
    Ok(true)
}

/// Sends one IP packet in one frame. Whether it could be.
pub(crate) fn put_packet(
    queue: &mut Queue,
    counters: &Counters,
    link: &Link,
    v6: bool,
    packet: &[u8],
) -> bool {
    let mut head = [0; LINK_MAX];
    let Ok(len) = write_link(&mut head, link, v6) else { return false };
    matches!(put_bytes(queue, counters, head.get(..len).unwrap_or_default(), packet), Ok(true))
}

/// Sends the pieces of an IP packet. Whether all could be.
pub(crate) fn put_pieces(
    queue: &mut Queue,
    counters: &Counters,
    link: &Link,
    v6: bool,
    pieces: &mut Refragment<'_>,
) -> bool {
    let mut piece = [0; PIECE_MAX];
    while let Some(written) = pieces.write_next(&mut piece) {
        let sent = written
            .ok()
            .and_then(|len| piece.get(..len))
            .is_some_and(|packet| put_packet(queue, counters, link, v6, packet));
        if !sent {
            return false;
        }
    }
    true
}
