//! ICMP errors that came by the rings, as the kernel's UDP reports them (net/ipv4/udp.c `__udp4_lib_err`,
//! net/ipv6/udp.c `__udp6_lib_err`): to connected sockets in the next call, with IP_RECVERR to all in the error queue.

use afnet_abi::shm::{ErrorInfo, MAX_QUOTE, Record};

use crate::{
    address::{Ip, Name, is_v4},
    shared::{Names, wants},
};

/// Errors that wait in the queue. The kernel's bound is the receive buffer; a program that reads them reads them soon.
const QUEUE: usize = 16;

/// `SO_EE_ORIGIN_*` of linux/errqueue.h.
const ORIGIN_LOCAL: u8 = 1;
const ORIGIN_ICMP: u8 = 2;
const ORIGIN_ICMP6: u8 = 3;

/// An entry of the error queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) errno: u32,
    pub(crate) origin: u8,
    pub(crate) kind: u8,
    pub(crate) code: u8,
    /// Path MTU.
    pub(crate) info: u32,
    /// Who said so; unspecified: this host.
    pub(crate) offender: Ip,
    /// Where the datagram went.
    pub(crate) remote: Name,
    contents: [u8; MAX_QUOTE],
    len: usize,
}

impl Entry {
    /// What is known of the datagram's contents.
    pub(crate) fn contents(&self) -> &[u8] {
        &self.contents[..self.len]
    }
}

/// Bytes of an [`ErrorInfo`].
const INFO: usize = size_of::<ErrorInfo>();
/// An [`ErrorInfo`] as it lies in the ring, and behind it what is quoted of the datagram.
pub(crate) type Info = [u8; INFO + MAX_QUOTE];

/// Whether a worker says that it has no route.
pub(crate) fn no_route(info: &Info) -> bool {
    info[12..INFO] == [0; 16] && i32::from_ne_bytes([info[0], info[1], info[2], info[3]]) == libc::ENETUNREACH
}

/// First in, first out; all zero is empty.
pub(crate) struct Errors {
    entries: [Option<Entry>; QUEUE],
    first: usize,
    count: usize,
}

impl Errors {
    fn push(&mut self, entry: Entry) {
        if self.count < QUEUE {
            self.entries[(self.first + self.count) % QUEUE] = Some(entry);
            self.count += 1;
        }
    }

    /// errno of the oldest, 0: none.
    pub(crate) fn next_errno(&self) -> i32 {
        let entry = if self.count == 0 { None } else { self.entries[self.first] };
        entry.and_then(|e| i32::try_from(e.errno).ok()).unwrap_or(0)
    }

    pub(crate) fn pop(&mut self) -> Option<Entry> {
        if self.count == 0 {
            return None;
        }
        let entry = self.entries[self.first].take();
        self.first = (self.first + 1) % QUEUE;
        self.count -= 1;
        entry
    }

    /// Takes an error record in, of which `b` has `len` bytes. What the socket's next call reports: an errno, or 0.
    pub(crate) fn take(&mut self, record: &Record, b: &Info, len: usize, wanted: u32, names: &Names) -> i32 {
        let word = |at: usize| u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let mut offender = [0; 16];
        offender.copy_from_slice(&b[12..INFO]);
        let remote = Name { ip: record.remote, port: record.remote_port, scope: 0 };
        let local = offender == [0; 16];
        let mut contents = [0; MAX_QUOTE];
        contents.copy_from_slice(&b[INFO..]);
        let four = is_v4(&record.remote);
        let entry = Entry {
            errno: word(0),
            origin: if local {
                ORIGIN_LOCAL
            } else if four {
                ORIGIN_ICMP
            } else {
                ORIGIN_ICMP6
            },
            kind: b[4],
            code: b[5],
            info: word(8),
            offender,
            remote,
            contents,
            len: len.saturating_sub(INFO),
        };
        let Ok(errno) = i32::try_from(entry.errno) else { return 0 };
        if names.peer.is_some_and(|peer| (peer.ip, peer.port) != (remote.ip, remote.port)) {
            // Not to our peer: the kernel would look for another socket.
            return 0;
        }
        let queue = wanted & if four { wants::RECVERR } else { wants::RECVERR6 } != 0;
        if queue {
            self.push(entry);
            return errno;
        }
        let hard = match errno {
            libc::EMSGSIZE => wanted & wants::FRAGMENT == 0,
            errno => {
                matches!(errno, libc::ECONNREFUSED | libc::EPROTO | libc::ENOPROTOOPT | libc::EOPNOTSUPP)
            }
        };
        if hard && names.peer.is_some() && !(local && errno == libc::EMSGSIZE) { errno } else { 0 }
    }
}
