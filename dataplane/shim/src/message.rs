//! Control messages, both ways, in the kernel's order (net/ipv4/udp.c `udp_recvmsg`, net/ipv4/ip_sockglue.c,
//! net/ipv6/datagram.c).

use core::{ffi::c_int, mem::MaybeUninit, ptr, sync::atomic::Ordering};

use afnet_abi::shm::Record;
use libc::{
    AF_INET, AF_INET6, CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_NXTHDR, CMSG_SPACE, IPPROTO_IP, IPPROTO_IPV6,
    IPPROTO_UDP, SOL_SOCKET, cmsghdr, in_addr, in_pktinfo, in6_addr, in6_pktinfo, msghdr, sock_extended_err,
    sockaddr_in, sockaddr_in6, timespec, timeval,
};

use crate::{
    address::{Ip, Name, family_of, is_group, is_link_local, is_loopback, is_unspecified, is_v4, mapped, v4},
    errors::Entry,
    known::Way,
    shared::{Shared, wants},
    sys::{clock_ns, coarse_ns, len_of},
};

const UDP_SEGMENT: c_int = 103;
const UDP_GRO: c_int = 104;
/// No address.
const NOWHERE: Ip = [0; 16];
/// Interface index of the loopback: what is delivered locally has come by it.
const LO: u32 = 1;

/// What a sender said in control messages, beside the socket's options.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Said {
    pub(crate) source: Option<Ip>,
    pub(crate) ttl: Option<u8>,
    pub(crate) tos: Option<u8>,
    pub(crate) segment: Option<u16>,
}

/// Reads a sender's control messages. `device`: interface by which datagrams come in, 0: none has. A sender may name that
/// one: it is where the answer goes anyway. `None`: something that only the kernel understands, or has to refuse.
///
/// # Safety
/// `message` is a valid one of the program's.
pub(crate) unsafe fn said(message: &msghdr, family: c_int, device: u32) -> Option<Said> {
    let mut said = Said::default();
    if message.msg_controllen == 0 || message.msg_control.is_null() {
        return Some(said);
    }
    // SAFETY: the caller's promise.
    let mut next = unsafe { CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: the macros yield headers within the control buffer; data may lie anywhere in it.
        let header = unsafe { next.read_unaligned() };
        // SAFETY: as above.
        let data = unsafe { CMSG_DATA(next) };
        // SAFETY: no memory.
        let len = header.cmsg_len.checked_sub(unsafe { CMSG_LEN(0) } as usize)?;
        let end = message.msg_control.addr() + message.msg_controllen;
        if data.addr() + len > end {
            return None;
        }
        let number = || {
            // SAFETY: four bytes are there, which the caller of this closure has checked.
            unsafe { data.cast::<c_int>().read_unaligned() }
        };
        match (header.cmsg_level, header.cmsg_type) {
            (IPPROTO_IP, libc::IP_PKTINFO) if len == size_of::<in_pktinfo>() => {
                // SAFETY: that many bytes are there.
                let info = unsafe { data.cast::<in_pktinfo>().read_unaligned() };
                if !is_known(c_int::cast_unsigned(info.ipi_ifindex), device) {
                    return None;
                }
                if info.ipi_spec_dst.s_addr != 0 {
                    said.source = Some(mapped(info.ipi_spec_dst.s_addr.to_ne_bytes()));
                }
            }
            (IPPROTO_IPV6, libc::IPV6_PKTINFO) if family == AF_INET6 && len == size_of::<in6_pktinfo>() => {
                // SAFETY: that many bytes are there.
                let info = unsafe { data.cast::<in6_pktinfo>().read_unaligned() };
                let ip = info.ipi6_addr.s6_addr;
                if !is_known(info.ipi6_ifindex, device) || info.ipi6_ifindex != 0 && is_link_local(&ip) {
                    return None;
                }
                if !is_unspecified(&ip) {
                    said.source = Some(ip);
                }
            }
            (IPPROTO_IP, libc::IP_TTL) if len == 4 => {
                said.ttl = Some(u8::try_from(number()).ok().filter(|n| *n > 0)?)
            }
            (IPPROTO_IP, libc::IP_TOS) if len == 4 => said.tos = Some(u8::try_from(number()).ok()?),
            // SAFETY: one byte is there.
            (IPPROTO_IP, libc::IP_TOS) if len == 1 => said.tos = Some(unsafe { data.read() }),
            (IPPROTO_IPV6, libc::IPV6_HOPLIMIT) if family == AF_INET6 && len == 4 => match number() {
                -1 => said.ttl = None,
                n => said.ttl = Some(u8::try_from(n).ok().filter(|n| *n > 0)?),
            },
            (IPPROTO_IPV6, libc::IPV6_TCLASS) if family == AF_INET6 && len == 4 => match number() {
                -1 => said.tos = Some(0),
                n => said.tos = Some(u8::try_from(n).ok()?),
            },
            (IPPROTO_UDP, UDP_SEGMENT) if len == 2 => {
                // SAFETY: two bytes are there.
                said.segment = Some(unsafe { data.cast::<u16>().read_unaligned() });
            }
            _ => return None,
        }
        // SAFETY: as above.
        next = unsafe { CMSG_NXTHDR(message, next) };
    }
    Some(said)
}

fn is_known(named: u32, device: u32) -> bool {
    named == 0 || named == device
}

/// Writes control messages into a receiver's buffer.
struct Writer<'a> {
    message: &'a mut msghdr,
    used: usize,
}

impl Writer<'_> {
    fn put<T: Copy>(&mut self, level: c_int, kind: c_int, value: &T) {
        // SAFETY: no memory.
        let (whole, space) =
            unsafe { (CMSG_LEN(len_of::<T>()) as usize, CMSG_SPACE(len_of::<T>()) as usize) };
        let room = self.message.msg_controllen - self.used;
        // As net/core/scm.c `put_cmsg`: what does not fit is cut, and a header that does not fit left out.
        if self.message.msg_control.is_null() || room < size_of::<cmsghdr>() {
            self.message.msg_flags |= libc::MSG_CTRUNC;
            return;
        }
        if room < whole {
            self.message.msg_flags |= libc::MSG_CTRUNC;
        }
        let header_len = whole - size_of::<T>();
        let len = whole.min(room);
        let header = cmsghdr { cmsg_len: len as _, cmsg_level: level, cmsg_type: kind };
        // SAFETY: `room` bytes lie there; header and data are written as far as they fit.
        unsafe {
            let at = self.message.msg_control.cast::<u8>().add(self.used);
            at.cast::<cmsghdr>().write_unaligned(header);
            ptr::copy_nonoverlapping(ptr::from_ref(value).cast::<u8>(), at.add(header_len), len - header_len);
        }
        self.used += space.min(room);
    }
}

/// A datagram's control messages, as the socket's options want them. `segment`: size of the parts if several
/// datagrams were put together.
#[cold]
pub(crate) fn write(message: &mut msghdr, shared: &Shared, record: &Record, segment: u16) {
    let wanted = shared.options.wants.load(Ordering::Relaxed);
    let mut out = Writer { message, used: 0 };
    let stamp = match record.timestamp_ns {
        0 => clock_ns(libc::CLOCK_REALTIME),
        stamp => stamp,
    };
    let seconds = i64::try_from(stamp / 1_000_000_000).unwrap_or(0);
    let nanos = i64::try_from(stamp % 1_000_000_000).unwrap_or(0);
    if wanted & wants::STAMP != 0 {
        let value = timeval { tv_sec: seconds, tv_usec: nanos / 1000 };
        out.put(SOL_SOCKET, libc::SCM_TIMESTAMP, &value);
    }
    if wanted & wants::STAMPNS != 0 {
        out.put(SOL_SOCKET, libc::SCM_TIMESTAMPNS, &timespec { tv_sec: seconds, tv_nsec: nanos });
    }
    if wanted & wants::STAMPING != 0 {
        let none = timespec { tv_sec: 0, tv_nsec: 0 };
        let value = [timespec { tv_sec: seconds, tv_nsec: nanos }, none, none];
        out.put(SOL_SOCKET, libc::SCM_TIMESTAMPING, &value);
    }
    if segment != 0 && wanted & wants::GRO != 0 {
        out.put(IPPROTO_UDP, UDP_GRO, &c_int::from(segment));
    }
    let device = if record.ifindex == 0 { LO } else { record.ifindex };
    let four = is_v4(&record.local);
    let ttl = c_int::from(record.ttl);
    if wanted & wants::PKTINFO6 != 0 {
        let ipi6_addr = in6_addr { s6_addr: record.local };
        out.put(IPPROTO_IPV6, libc::IPV6_PKTINFO, &in6_pktinfo { ipi6_addr, ipi6_ifindex: device });
    }
    if four {
        if wanted & wants::PKTINFO != 0 {
            let address = |ip| in_addr { s_addr: u32::from_ne_bytes(v4(ip)) };
            let info = in_pktinfo {
                ipi_ifindex: c_int::try_from(device).unwrap_or(0),
                ipi_spec_dst: address(&answers_from(shared, record)),
                ipi_addr: address(&record.local),
            };
            out.put(IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        if wanted & wants::TTL != 0 {
            out.put(IPPROTO_IP, libc::IP_TTL, &ttl);
        }
        if wanted & wants::TOS != 0 {
            out.put(IPPROTO_IP, libc::IP_TOS, &record.tos);
        }
        if wanted & wants::ORIGDST != 0 {
            let name = Name { ip: record.local, port: record.local_port, scope: 0 };
            out.put(IPPROTO_IP, libc::IP_ORIGDSTADDR, &inet(&name));
        }
    } else {
        if wanted & wants::HOPLIMIT != 0 {
            out.put(IPPROTO_IPV6, libc::IPV6_HOPLIMIT, &ttl);
        }
        if wanted & wants::TCLASS != 0 {
            out.put(IPPROTO_IPV6, libc::IPV6_TCLASS, &c_int::from(record.tos));
        }
        if wanted & wants::ORIGDST6 != 0 {
            let scope = if is_link_local(&record.local) { device } else { 0 };
            let name = Name { ip: record.local, port: record.local_port, scope };
            out.put(IPPROTO_IPV6, libc::IPV6_ORIGDSTADDR, &inet6(&name));
        }
    }
    out.message.msg_controllen = out.used as _;
}

/// The address of ours to answer a datagram from (`fib_compute_spec_dst` of net/ipv4/fib_frontend.c).
fn answers_from(shared: &Shared, record: &Record) -> Ip {
    if !is_group(&record.local) {
        return record.local;
    }
    let to = Name { ip: record.remote, port: record.remote_port, scope: 0 };
    match shared.lock_tx().known.way(&to, &NOWHERE, coarse_ns()) {
        Way::Ring { source, .. } => source,
        // Let the kernel choose.
        Way::Kernel => NOWHERE,
    }
}

/// An entry of the error queue as its control message (linux/errqueue.h).
pub(crate) fn write_error(message: &mut msghdr, entry: &Entry) {
    let error = sock_extended_err {
        ee_errno: entry.errno,
        ee_origin: entry.origin,
        ee_type: entry.kind,
        ee_code: entry.code,
        ee_pad: 0,
        ee_info: entry.info,
        ee_data: 0,
    };
    let offender = Name { ip: entry.offender, port: 0, scope: 0 };
    let known = !is_unspecified(&entry.offender) && !is_loopback(&entry.offender);
    let mut out = Writer { message, used: 0 };
    if is_v4(&entry.remote.ip) {
        let mut value = (error, inet(&offender));
        if !known {
            value.1 = zeroed();
        }
        out.put(IPPROTO_IP, libc::IP_RECVERR, &value);
    } else {
        let mut value = (error, inet6(&offender));
        if !known {
            value.1 = zeroed();
        }
        out.put(IPPROTO_IPV6, libc::IPV6_RECVERR, &value);
    }
    out.message.msg_controllen = out.used as _;
}

fn zeroed<T: Copy>() -> T {
    // SAFETY: of addresses only: integers.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

fn inet(name: &Name) -> sockaddr_in {
    sockaddr_in {
        sin_family: family_of(AF_INET),
        sin_port: name.port.to_be(),
        sin_addr: in_addr { s_addr: u32::from_ne_bytes(v4(&name.ip)) },
        sin_zero: [0; 8],
    }
}

fn inet6(name: &Name) -> sockaddr_in6 {
    sockaddr_in6 {
        sin6_family: family_of(AF_INET6),
        sin6_port: name.port.to_be(),
        sin6_flowinfo: 0,
        sin6_addr: in6_addr { s6_addr: name.ip },
        sin6_scope_id: name.scope,
    }
}
