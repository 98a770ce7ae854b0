//! Receiving and sending over rings in plain memory, beside a real UDP socket.

use core::mem;
use std::{
    net::UdpSocket,
    os::{
        fd::{AsRawFd, IntoRawFd},
        unix::net::UnixStream,
    },
};

use afnet_abi::shm::{ErrorInfo, Record, flags, kind};
use afnet_ring::{Consumer, Producer, pair};
use libc::{MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC, c_int, iovec, msghdr};

use crate::{
    address::{Ip, Name, mapped},
    receive, send,
    shared::{Names, state, wants},
    socket::{Socket, Use},
    sys::errno,
};

const LOCAL: [u8; 4] = [192, 0, 2, 10];
const PEER: [u8; 4] = [192, 0, 2, 99];

/// An accelerated socket, and the worker's ends of its rings.
struct Rig {
    kernel: UdpSocket,
    usage: Use,
    rx: Producer,
    tx: Consumer,
    _daemon: UnixStream,
}

impl Rig {
    fn new() -> Self {
        let kernel = UdpSocket::bind("127.0.0.1:0").unwrap();
        let usage = Use::of(Socket::create(libc::AF_INET).unwrap());
        let (rx, consumer) = pair(1 << 18);
        let (producer, tx) = pair(1 << 18);
        let shared = usage.shared();
        let local = Name { ip: [0; 16], port: 53, scope: 0 };
        shared.install(vec![(consumer, producer)], Names { local, peer: None }, true);
        let (daemon, connection) = UnixStream::pair().unwrap();
        shared.connection.store(connection.into_raw_fd(), core::sync::atomic::Ordering::Relaxed);
        shared.state.store(state::FAST, core::sync::atomic::Ordering::Release);
        Self { kernel, usage, rx, tx, _daemon: daemon }
    }

    fn put(&mut self, record: Record, payload: &[u8]) {
        let mut room = self.rx.reserve(payload.len()).unwrap();
        room.write(0, payload);
        room.commit(&record, payload.len());
        let _ = self.rx.publish();
    }

    /// A datagram of the peer's.
    fn datagram(&mut self, port: u16, payload: &[u8]) {
        self.put(from(mapped(PEER), port), payload);
    }

    /// recvmsg(): the result or errno, the payload, flags, name, bytes of control messages.
    fn receive(&self, room: usize, flags: c_int) -> (isize, Vec<u8>, c_int, Option<Name>, usize) {
        let (mut buffer, mut name, mut control) = (vec![0u8; room], [0u8; 28], [0u64; 32]);
        let mut part = iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: room };
        // SAFETY: integers and null pointers.
        let mut message: msghdr = unsafe { mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_name = name.as_mut_ptr().cast();
        message.msg_namelen = 28;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: a message around buffers of this function.
        let result = unsafe {
            receive::receive(self.kernel.as_raw_fd(), &self.usage, &mut message, flags | MSG_DONTWAIT)
        };
        let result = match result.unwrap() {
            n if n < 0 => -isize::try_from(errno()).unwrap(),
            n => n,
        };
        // SAFETY: as long as it says.
        let from = unsafe { Name::read(name.as_ptr().cast(), message.msg_namelen) };
        (result, buffer, message.msg_flags, from, message.msg_controllen)
    }

    fn send(&self, to: Option<Name>, payload: &[u8]) -> Option<isize> {
        let (storage, len) = to.unwrap_or_default().sockaddr(libc::AF_INET);
        let address = if to.is_some() { (&raw const storage).cast() } else { core::ptr::null() };
        let fd = self.kernel.as_raw_fd();
        // SAFETY: buffers of this function.
        unsafe { send::send_to(&self.usage, fd, payload.as_ptr().cast(), payload.len(), 0, address, len) }
    }

    fn want(&self, bits: u32) {
        self.usage.shared().options.wants.store(bits, core::sync::atomic::Ordering::Relaxed);
    }

    fn connect(&self, port: u16) {
        let local = Name { ip: mapped(LOCAL), port: 53, scope: 0 };
        let peer = Some(Name { ip: mapped(PEER), port, scope: 0 });
        self.usage.shared().set_names(Names { local, peer });
    }
}

fn from(remote: Ip, remote_port: u16) -> Record {
    Record {
        kind: kind::DATAGRAM,
        local: mapped(LOCAL),
        local_port: 53,
        remote,
        remote_port,
        ttl: 61,
        tos: 2,
        ifindex: 7,
        timestamp_ns: 1_700_000_000_123_456_789,
        ..Record::default()
    }
}

const AGAIN: isize = -11;

#[test]
fn datagrams_come_whole_cut_and_twice() {
    let mut rig = Rig::new();
    assert_eq!(rig.receive(10, 0).0, AGAIN);
    rig.datagram(7, b"hello");
    rig.datagram(8, b"");
    let (n, data, flags, name, control) = rig.receive(10, MSG_PEEK);
    assert_eq!((n, &data[..5], flags, control), (5, &b"hello"[..], 0, 0));
    assert_eq!(name, Some(Name { ip: mapped(PEER), port: 7, scope: 0 }));
    let (n, data, flags, ..) = rig.receive(3, MSG_PEEK | MSG_TRUNC);
    assert_eq!((n, &data[..], flags), (5, &b"hel"[..], MSG_TRUNC));
    let (n, data, flags, ..) = rig.receive(3, 0);
    assert_eq!((n, &data[..], flags), (3, &b"hel"[..], MSG_TRUNC));
    let (n, _, flags, name, _) = rig.receive(3, 0);
    assert_eq!((n, flags, name.unwrap().port), (0, 0, 8));
    assert_eq!(rig.receive(10, 0).0, AGAIN);
}

#[test]
fn what_the_kernel_has_is_read_too() {
    let mut rig = Rig::new();
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.send_to(b"kernel", rig.kernel.local_addr().unwrap()).unwrap();
    rig.datagram(7, b"ring");
    let mut got =
        [rig.receive(10, 0), rig.receive(10, 0)].map(|g| g.1[..usize::try_from(g.0).unwrap()].to_vec());
    got.sort();
    assert_eq!(got, [b"kernel".to_vec(), b"ring".to_vec()]);
    assert_eq!(rig.receive(10, 0).0, AGAIN);
}

#[test]
fn a_connected_socket_hears_its_peer_alone_and_what_came_before() {
    let mut rig = Rig::new();
    rig.datagram(8, b"before");
    rig.connect(7);
    rig.datagram(8, b"stranger");
    rig.put(from(mapped([192, 0, 2, 98]), 7), b"stranger");
    rig.datagram(7, b"peer");
    assert_eq!(&rig.receive(6, 0).1, b"before");
    assert_eq!(&rig.receive(4, 0).1, b"peer");
    assert_eq!(rig.receive(10, 0).0, AGAIN);
}

#[test]
fn each_datagram_meets_the_filter_of_its_time() {
    let mut rig = Rig::new();
    for (connected, heard) in [(7, [7, 8]), (8, [7, 8]), (9, [8, 9])] {
        rig.connect(connected);
        for port in heard {
            rig.datagram(port, b"x");
        }
    }
    let shared = rig.usage.shared();
    for port in [7, 8, 9] {
        assert_eq!(receive::next_len(shared, 0), Some(1));
        assert_eq!(rig.receive(1, 0).3.unwrap().port, port);
    }
    assert_eq!(rig.receive(1, 0).0, AGAIN);
    // What is dropped makes nothing readable.
    rig.datagram(7, b"x");
    assert_eq!(crate::ready::rings(rig.usage.shared()), 0);
}

#[test]
fn what_the_rings_hold_is_given_back() {
    let mut rig = Rig::new();
    rig.connect(7);
    for port in [7, 8, 7] {
        rig.datagram(port, &[b'a' + u8::try_from(port).unwrap()]);
    }
    send::give_back(rig.usage.shared());
    let item = rig.tx.peek().unwrap().unwrap();
    assert_eq!((item.record.kind, item.payload.len()), (kind::LEAVE, 0));
    item.consume();
    for _ in 0..2 {
        let item = rig.tx.peek().unwrap().unwrap();
        let record = item.record;
        assert_eq!((record.kind, record.flags), (kind::DATAGRAM, flags::GIVE_BACK));
        assert_eq!((record.local, record.remote, record.remote_port), (mapped(LOCAL), mapped(PEER), 7));
        assert_eq!(item.payload.to_vec(), b"h");
        item.consume();
    }
    assert!(rig.tx.is_empty());
    assert_eq!(rig.receive(1, 0).0, AGAIN);
}

#[test]
fn control_messages_are_those_asked_for() {
    let mut rig = Rig::new();
    rig.want(wants::TTL | wants::TOS | wants::PKTINFO | wants::STAMPNS);
    rig.datagram(7, b"x");
    // SAFETY: no memory.
    let space =
        unsafe { libc::CMSG_SPACE(4) + libc::CMSG_SPACE(1) + libc::CMSG_SPACE(12) + libc::CMSG_SPACE(16) };
    assert_eq!(rig.receive(10, 0).4, space as usize);
    rig.want(wants::PKTINFO6 | wants::HOPLIMIT);
    rig.datagram(7, b"x");
    // A datagram over IPv4 has no hop limit.
    // SAFETY: no memory.
    assert_eq!(rig.receive(10, 0).4, unsafe { libc::CMSG_SPACE(20) } as usize);
}

#[test]
fn datagrams_of_one_flow_are_put_together_for_gro() {
    let mut rig = Rig::new();
    rig.want(wants::GRO);
    for part in [&b"aaaa"[..], b"bbbb", b"cc", b"dddd"] {
        rig.datagram(7, part);
    }
    rig.datagram(8, b"eeee");
    let (n, data, ..) = rig.receive(100, 0);
    assert_eq!((n, &data[..10]), (10, &b"aaaabbbbcc"[..]));
    assert_eq!(&rig.receive(4, 0).1, b"dddd");
    // Room for one and a half: one.
    rig.datagram(9, b"1234");
    assert_eq!(rig.receive(6, 0).0, 4);
    assert_eq!(rig.receive(6, 0).0, 4);
    assert_eq!(rig.receive(6, 0).0, AGAIN);
}

fn refusal(port: u16, errno: c_int) -> (Record, Vec<u8>) {
    let record = Record { kind: kind::ERROR, ..from(mapped(PEER), port) };
    let info = ErrorInfo {
        errno: u32::try_from(errno).unwrap(),
        icmp_type: 3,
        icmp_code: 3,
        offender: mapped(PEER),
        ..ErrorInfo::default()
    };
    // SAFETY: integers, without padding: 28 bytes.
    (record, unsafe { mem::transmute::<ErrorInfo, [u8; 28]>(info) }.to_vec())
}

#[test]
fn icmp_errors_reach_who_asked_for_them() {
    let mut rig = Rig::new();
    // Not connected, and no IP_RECVERR: nobody is told.
    let (record, info) = refusal(7, libc::ECONNREFUSED);
    rig.put(record, &info);
    assert_eq!(rig.receive(10, 0).0, AGAIN);
    rig.want(wants::RECVERR);
    rig.put(record, &info);
    assert_eq!(rig.receive(10, 0).0, -isize::try_from(libc::ECONNREFUSED).unwrap());
    let (n, _, flags, name, control) = rig.receive(10, libc::MSG_ERRQUEUE);
    // SAFETY: no memory.
    let space = unsafe { libc::CMSG_SPACE(32) } as usize;
    assert_eq!((n, flags, name.unwrap().port, control), (0, libc::MSG_ERRQUEUE, 7, space));
    rig.want(0);
    rig.connect(7);
    for (port, errno, result) in [
        (7, libc::ECONNREFUSED, -111),
        (8, libc::ECONNREFUSED, AGAIN),
        (7, libc::EHOSTUNREACH, AGAIN),
        (7, libc::EMSGSIZE, -90),
    ] {
        let (record, info) = refusal(port, errno);
        rig.put(record, &info);
        assert_eq!(rig.receive(10, 0).0, result, "{port} {errno}");
    }
}

#[test]
fn a_hostile_ring_is_left_for_the_kernel() {
    let mut rig = Rig::new();
    for kind in [kind::PACKET, 77] {
        rig.put(Record { kind, ..from(mapped(PEER), 7) }, b"what");
    }
    // An error that is too short, and one with an errno beyond all.
    rig.put(Record { kind: kind::ERROR, ..from(mapped(PEER), 7) }, b"short");
    rig.put(Record { kind: kind::ERROR, ..from(mapped(PEER), 7) }, &[0xff; 28]);
    rig.datagram(7, b"ok");
    assert_eq!(&rig.receive(2, 0).1, b"ok");
}

#[test]
fn what_is_sent_has_the_sockets_options() {
    let mut rig = Rig::new();
    rig.connect(7);
    let options = &rig.usage.shared().options;
    options.ttl.store(9, core::sync::atomic::Ordering::Relaxed);
    options.tos.store(0x10, core::sync::atomic::Ordering::Relaxed);
    options.segment.store(4, core::sync::atomic::Ordering::Relaxed);
    rig.want(wants::DF);
    // The kernel has no route to the peer, perhaps; what it says is not this test's matter.
    {
        let mut tx = rig.usage.shared().lock_tx();
        tx.known.learn(&mapped(PEER), &mapped(LOCAL), u64::MAX / 2);
    }
    assert_eq!(rig.send(None, b"0123456789"), Some(10));
    let item = rig.tx.peek().unwrap().unwrap();
    let record = item.record;
    assert_eq!((record.ttl, record.tos, record.segment, record.flags), (9, 0x10, 4, flags::DONT_FRAGMENT));
    assert_eq!((record.local, record.local_port), (mapped(LOCAL), 53));
    assert_eq!((record.remote, record.remote_port), (mapped(PEER), 7));
    assert_eq!(item.payload.to_vec(), b"0123456789");
    item.consume();
    // Multicast, and what no datagram holds, is the kernel's.
    assert_eq!(rig.send(Some(Name { ip: mapped([224, 0, 0, 5]), port: 7, scope: 0 }), b"x"), None);
    assert_eq!(rig.send(None, &vec![0; 65508]), None);
}
