//! rtnetlink: links, addresses, routes and neighbours of the network namespace that the daemon lives in.
//!
//! | module | what |
//! |---|---|
//! | [`link`] | interfaces; the veth pair of the host link |
//! | [`addr`] | addresses of the compartments on the kernel's device, and the mirror of all |
//! | [`route`] | what the FIB says of a destination; routes over the host link |
//! | [`neigh`] | neighbour entries; making the kernel resolve one |
//! | [`host_link`] | the veth pair to the host |
//! | [`ethtool`] | queues in use, checksum offload |
//! | [`events`] | what others change |
//!
//! [`Netlink`] is a socket for requests: the kernel answers rtnetlink within the `sendto`, so the control thread waits
//! for the answer on the spot. Needs CAP_NET_ADMIN for changes.

pub mod addr;
pub mod ethtool;
pub mod events;
pub mod host_link;
pub mod link;
pub mod neigh;
pub mod route;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::route::RouteAddress;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;

use crate::error::Refused;

/// Bytes received at once; the kernel fills at most 32 KiB for a part of a dump.
const BUFFER: usize = 64 << 10;
/// An answer that takes longer never comes (the kernel answers at once).
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often a dump is tried that changes interrupt.
const DUMP_TRIES: usize = 8;

/// What the kernel answered to a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// Its errno.
    pub errno: Errno,
    /// Its explanation (extended acknowledgement), if it gave one.
    pub text: Option<String>,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", io::Error::from(self.errno))?;
        self.text.iter().try_for_each(|text| write!(f, ": {text}"))
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self { errno: Errno::from_io_error(&error).unwrap_or(Errno::IO), text: None }
    }
}

impl Error {
    /// As a refusal of `what`.
    pub fn refused(self, what: impl std::fmt::Display) -> Refused {
        Refused::new(self.errno, format!("{what}: {self}"))
    }
}

/// A socket for requests.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens it in the network namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Explanations with errors, without an echo of the request; both are best effort.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(TIMEOUT),
        )?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Asks for a change and waits until it is made.
    pub fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Error> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags, |_| ())
    }

    /// Asks for one thing.
    pub fn get<T>(
        &mut self,
        message: RouteNetlinkMessage,
        mut pick: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let mut found = None;
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK, |m| {
            if let Some(picked) = pick(m) {
                found = Some(picked);
            }
        })?;
        Ok(found)
    }

    /// Asks for a list; tried again if it changed meanwhile.
    pub fn dump<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        mut pick: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut tries = 0;
        loop {
            let mut all = Vec::new();
            let flags = NLM_F_REQUEST | NLM_F_DUMP;
            match self.exchange(message.clone(), flags, |m| all.extend(pick(m))) {
                Ok(()) => return Ok(all),
                Err(e) if e.errno == Errno::INTR && tries < DUMP_TRIES => tries += 1,
                Err(e) => return Err(e),
            }
        }
    }

    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> Result<(), Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
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
                let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(one) else { continue };
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

/// AF_INET or AF_INET6.
pub(crate) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

pub(crate) fn route_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
