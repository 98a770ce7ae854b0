//! Requests to the kernel over netlink, and its answers, whatever the protocol.
//!
//! The kernel answers within the `sendto`, so the control thread waits for the answer on the spot.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;

use super::Error;

/// Bytes received at once; the kernel fills at most 32 KiB for a part of a dump.
pub(super) const BUFFER: usize = 64 << 10;
/// An answer that takes longer never comes (the kernel answers at once).
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often a dump is tried that changes interrupt.
const DUMP_TRIES: usize = 8;

/// A socket for requests.
#[derive(Debug)]
pub(super) struct Exchange {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Exchange {
    /// Opens it in the network namespace of the calling thread.
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Explanations with errors, without an echo of the request; both are best effort.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(TIMEOUT),
        )?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// To set options.
    pub(super) fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Asks for a list; tried again if it changed meanwhile.
    pub(super) fn dump<O: NetlinkSerializable + Clone, I: NetlinkDeserializable, T>(
        &mut self,
        message: &O,
        mut pick: impl FnMut(I) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut tries = 0;
        loop {
            let mut all = Vec::new();
            match self.ask(message.clone(), NLM_F_DUMP, |m| all.extend(pick(m))) {
                Ok(()) => return Ok(all),
                Err(e) if e.errno == Errno::INTR && tries < DUMP_TRIES => tries += 1,
                Err(e) => return Err(e),
            }
        }
    }

    /// Sends a request and waits for the end of the answer.
    pub(super) fn ask<O: NetlinkSerializable, I: NetlinkDeserializable>(
        &mut self,
        message: O,
        flags: u16,
        mut each: impl FnMut(I),
    ) -> Result<(), Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut interrupted = false;
        loop {
            let n = self.receive()?;
            let mut rest = &self.buffer[..n];
            while let Some((one, next)) = split(rest) {
                rest = next;
                let Ok(header) = netlink_header(one) else { continue };
                // An answer to a request that timed out before.
                if header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                let Ok(message) = NetlinkMessage::<I>::deserialize(one) else { continue };
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => each(inner),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(()),
                            Some(code) => Err(Error {
                                errno: Errno::from_raw_os_error(code.get().abs()),
                                text: explanation(&error.header),
                            }),
                        };
                    }
                    NetlinkPayload::Done(done) if done.code != 0 => {
                        return Err(Error { errno: Errno::from_raw_os_error(done.code.abs()), text: None });
                    }
                    NetlinkPayload::Done(_) if interrupted => {
                        return Err(Error { errno: Errno::INTR, text: None });
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    _ => {}
                }
            }
        }
    }

    fn receive(&mut self) -> Result<usize, Error> {
        loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Error { errno: Errno::TIMEDOUT, text: None });
                }
                other => return Ok(other?),
            }
        }
    }
}

/// The first netlink message of a buffer and what follows it.
pub(crate) fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    if len < 16 || len > bytes.len() {
        return None;
    }
    // Messages are aligned to 4 bytes, the last one need not be padded.
    Some((&bytes[..len], bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

fn netlink_header(bytes: &[u8]) -> Result<NetlinkHeader, netlink_packet_core::DecodeError> {
    use netlink_packet_core::{NetlinkBuffer, Parseable};
    NetlinkHeader::parse(&NetlinkBuffer::new_checked(&bytes)?)
}

/// NLMSGERR_ATTR_MSG of an extended acknowledgement: after the (bare) header of the request come attributes.
fn explanation(tail: &[u8]) -> Option<String> {
    const MSG: u16 = 1;
    let mut rest = tail.get(16..)?;
    while rest.len() >= 4 {
        let len = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]);
        let value = rest.get(4..len)?;
        if kind == MSG {
            let text = value.split(|b| *b == 0).next()?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = rest.get(len.next_multiple_of(4)..)?;
    }
    None
}
