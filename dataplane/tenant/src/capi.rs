//! The calls of `include/afnet.h`: each a thin shell around the Rust one. The layouts here are those of the header.
//!
//! A panic must not cross into C; the calls below have none of their own, and `extern "C"` aborts on one.

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::{
    cell::RefCell,
    ffi::CString,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::AsRawFd,
    time::Duration,
};

use afnet_abi::control::EndpointKind;

use crate::{AttachOptions, Datagram, Endpoint, Error, Kind, Membership, Message, Realm, Vlan};

const NO_RECONNECT: u32 = 1;
const POPULATE: u32 = 2;
const RAW: u32 = 2;
const DONT_FRAGMENT: u32 = 1;
const TRUNCATED: u32 = 2;
const KERNEL: u32 = 4;
const LOCAL: u32 = 8;
const NO_LOOP: u32 = 16;
/// MCAST_EXCLUDE and MCAST_INCLUDE of netinet/in.h.
const EXCLUDE: u32 = 0;
const INCLUDE: u32 = 1;
/// `AF_INET` and `AF_INET6`, the same on all of Linux.
const INET: u16 = 2;
const INET6: u16 = 10;

/// `struct afnet`.
#[derive(Debug)]
pub struct Handle(Endpoint);

/// `struct afnet_options`.
#[derive(Debug)]
#[repr(C)]
pub struct Options {
    instance: *const c_char,
    compartment: *const c_char,
    rx_len: u64,
    tx_len: u64,
    kind: u32,
    flags: u32,
    spin_us: u32,
    reserved: u32,
}

/// `union afnet_addr`, laid out as `struct sockaddr_in6`; a `sockaddr_in` has its address where that has its flow.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Addr {
    family: u16,
    port: [u8; 2],
    v4: [u8; 4],
    v6: [u8; 16],
    scope: u32,
}

/// `struct afnet_msg`.
#[derive(Debug)]
#[repr(C)]
pub struct Msg {
    data: *mut c_void,
    len: usize,
    local: Addr,
    remote: Addr,
    timestamp_ns: u64,
    kind: u32,
    flags: u32,
    ifindex: u32,
    vlan: u32,
    mtu: u32,
    error: i32,
    segment: u16,
    ttl: u8,
    tos: u8,
    reserved: u32,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Addr>() == 28 && size_of::<Options>() == 48);
    // The same numbers, for the header, stand in tests/c.rs.
    assert!(offset_of!(Options, kind) == 32 && size_of::<Msg>() == 112);
    assert!(offset_of!(Msg, local) == 16 && offset_of!(Msg, remote) == 44);
    assert!(offset_of!(Msg, timestamp_ns) == 72 && offset_of!(Msg, kind) == 80);
    assert!(offset_of!(Msg, flags) == 84 && offset_of!(Msg, ifindex) == 88 && offset_of!(Msg, vlan) == 92);
    assert!(offset_of!(Msg, mtu) == 96 && offset_of!(Msg, error) == 100 && offset_of!(Msg, segment) == 104);
    assert!(offset_of!(Msg, ttl) == 106 && offset_of!(Msg, tos) == 107);
};

thread_local! {
    static TEXT: RefCell<CString> = RefCell::default();
}

/// Keeps the text and yields the negative errno.
fn failed(error: &Error) -> c_int {
    let text = CString::new(error.to_string().replace('\0', " ")).unwrap_or_default();
    TEXT.with_borrow_mut(|t| *t = text);
    -error.errno().abs().max(1)
}

fn status(result: Result<(), Error>) -> c_int {
    result.map_or_else(|e| failed(&e), |()| 0)
}

impl From<SocketAddr> for Addr {
    fn from(address: SocketAddr) -> Self {
        let port = address.port().to_be_bytes();
        match address {
            SocketAddr::V4(v4) => Self { family: INET, port, v4: v4.ip().octets(), ..Self::default() },
            SocketAddr::V6(v6) => {
                let scope = v6.scope_id();
                Self { family: INET6, port, v6: v6.ip().octets(), scope, ..Self::default() }
            }
        }
    }
}

impl Addr {
    /// `None`: neither IPv4 nor IPv6.
    fn get(&self) -> Option<SocketAddr> {
        let port = u16::from_be_bytes(self.port);
        match self.family {
            INET => Some(SocketAddr::new(Ipv4Addr::from(self.v4).into(), port)),
            INET6 => {
                let ip = Ipv6Addr::from(self.v6);
                Some(match ip.to_ipv4_mapped() {
                    Some(v4) => SocketAddr::new(v4.into(), port),
                    None => SocketAddr::V6(SocketAddrV6::new(ip, port, 0, self.scope)),
                })
            }
            _ => None,
        }
    }
}

/// Text of this thread's last failed call.
#[unsafe(no_mangle)]
pub extern "C" fn afnet_error() -> *const c_char {
    TEXT.with_borrow(|t| t.as_ptr())
}

/// # Safety
/// `text` is null or a C string.
unsafe fn text(text: *const c_char) -> Result<Option<String>, Error> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: a C string by the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    let text = text.to_str().map_err(|_| Error::Invalid("a name is not UTF-8"))?;
    Ok(Some(text.to_owned()))
}

/// # Safety
/// `options` is null or points to a `struct afnet_options`; `endpoint` to a pointer to write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn afnet_attach(options: *const Options, endpoint: *mut *mut Handle) -> c_int {
    let mut attach = AttachOptions::default();
    // SAFETY: null or valid by the caller's promise.
    if let Some(options) = unsafe { options.as_ref() } {
        // SAFETY: C strings or null, as the header demands.
        let names = unsafe { (text(options.instance), text(options.compartment)) };
        let (Ok(instance), Ok(compartment)) = names else {
            return failed(&Error::Invalid("a name is not UTF-8"));
        };
        attach.instance = instance;
        attach.compartment = compartment;
        attach.kind = match options.kind {
            0 | 1 => EndpointKind::Udp,
            RAW => EndpointKind::Raw,
            _ => return failed(&Error::Invalid("no such kind of endpoint")),
        };
        attach.rx_len = (options.rx_len != 0).then_some(options.rx_len);
        attach.tx_len = (options.tx_len != 0).then_some(options.tx_len);
        attach.spin = Duration::from_micros(options.spin_us.into());
        attach.reconnect = options.flags & NO_RECONNECT == 0;
        attach.populate = options.flags & POPULATE != 0;
    }
    match Endpoint::attach(&attach) {
        Ok(attached) => {
            // SAFETY: writable by the caller's promise.
            unsafe { *endpoint = Box::into_raw(Box::new(Handle(attached))) };
            0
        }
        Err(e) => failed(&e),
    }
}

/// # Safety
/// `endpoint` is null or from `afnet_attach`, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn afnet_detach(endpoint: *mut Handle) {
    if !endpoint.is_null() {
        // SAFETY: made by `Box::into_raw` in `afnet_attach`, given back once.
        drop(unsafe { Box::from_raw(endpoint) });
    }
}

/// # Safety
/// `address` is null or points to a socket address of its family's length.
unsafe fn only(address: *const u16) -> Result<Option<IpAddr>, Error> {
    if address.is_null() {
        return Ok(None);
    }
    let mut copy = Addr::default();
    // SAFETY: the family comes first in every socket address.
    let len = match unsafe { address.read_unaligned() } {
        INET => 16,
        INET6 => 28,
        _ => return Err(Error::Invalid("neither IPv4 nor IPv6")),
    };
    // SAFETY: that many bytes are there by the caller's promise, and in `copy`.
    unsafe { core::ptr::copy_nonoverlapping(address.cast::<u8>(), (&raw mut copy).cast::<u8>(), len) };
    Ok(copy.get().map(|a| a.ip()))
}

/// # Safety
/// `endpoint` is from `afnet_attach`; `address` is null or points to a socket address.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn afnet_claim(
    endpoint: *mut Handle,
    address: *const u16,
    port: u16,
    count: u16,
) -> c_int {
    // SAFETY: by the caller's promise.
    let (endpoint, address) = unsafe { (&mut (*endpoint).0, only(address)) };
    let result = address.and_then(|address| match (address, count) {
        (None, 1) => endpoint.claim(port),
        (Some(address), 1) => endpoint.claim_at(address, port),
        (None, count) => endpoint.claim_block(port, count).map(|()| port),
        (Some(_), _) => Err(Error::Invalid("a block is claimed for all addresses")),
    });
    result.map_or_else(|e| failed(&e), c_int::from)
}

/// # Safety
/// As [`afnet_claim`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn afnet_unclaim(endpoint: *mut Handle, address: *const u16, port: u16) -> c_int {
    // SAFETY: by the caller's promise.
    let (endpoint, address) = unsafe { (&mut (*endpoint).0, only(address)) };
    status(address.and_then(|address| endpoint.unclaim(port, address)))
}

/// # Safety
/// `endpoint` is from `afnet_attach`; `device` is null or a C string; `group` points to a socket address, `sources` to
/// `count` structures of the size of `struct sockaddr_storage` with socket addresses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn afnet_setsourcefilter(
    endpoint: *mut Handle,
    device: *const c_char,
    vlan: u32,
    group: *const u16,
    mode: u32,
    count: u32,
    sources: *const [u8; 128],
) -> c_int {
    // SAFETY: by the caller's promise.
    let (endpoint, device, group) = unsafe { (&mut (*endpoint).0, text(device), only(group)) };
    let mut listed = Vec::new();
    for i in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: below `count`.
        match unsafe { only(sources.add(i).cast()) } {
            Ok(Some(source)) => listed.push(source),
            Ok(None) => return failed(&Error::Invalid("no sources")),
            Err(e) => return failed(&e),
        }
    }
    let make = || -> Result<Membership, Error> {
        let vlan = Vlan::from_raw(vlan).map_err(|_| Error::Invalid("no such VLAN"))?;
        let exclude = match mode {
            EXCLUDE => true,
            INCLUDE => false,
            _ => return Err(Error::Invalid("neither MCAST_INCLUDE nor MCAST_EXCLUDE")),
        };
        let group = group?.ok_or(Error::Invalid("no group"))?;
        Ok(Membership { group, device: device?.map(|device| (device, vlan)), exclude, sources: listed })
    };
    status(make().and_then(|membership| endpoint.listen(&membership)))
}

/// # Safety
/// `endpoint` is from `afnet_attach`; `messages` points to `n` messages whose `data` has room for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn afnet_recv(
    endpoint: *mut Handle,
    messages: *mut Msg,
    n: c_uint,
    timeout_ms: c_int,
) -> c_int {
    // SAFETY: by the caller's promise.
    let endpoint = unsafe { &mut (*endpoint).0 };
    let max = usize::try_from(n).unwrap_or(usize::MAX).min(1 << 30);
    let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
    let deadline = timeout.map(|t| std::time::Instant::now() + t);
    loop {
        let mut count = 0;
        let result = endpoint.recv_batch(max, |_, datagram| {
            // SAFETY: at most `n` of them are shown, and each pointer is valid by the caller's promise.
            unsafe { fill(&mut *messages.add(count), datagram) };
            count += 1;
        });
        match result {
            // What came before the error is delivered first; the error comes again or has had its effect.
            Err(e) if count == 0 => return failed(&e),
            _ if count > 0 || max == 0 || timeout_ms == 0 => {
                return c_int::try_from(count).unwrap_or(c_int::MAX);
            }
            _ => {}
        }
        let left = deadline.map(|d| d.saturating_duration_since(std::time::Instant::now()));
        match endpoint.wait(left) {
            Ok(true) => {}
            Ok(false) => return 0,
            Err(e) => return failed(&e),
        }
    }
}

/// # Safety
/// `message.data` has room for `message.len` bytes.
unsafe fn fill(message: &mut Msg, datagram: &Datagram<'_>) {
    let room = if message.data.is_null() { 0 } else { message.len };
    let buffer = if room == 0 {
        &mut []
    } else {
        // SAFETY: the caller's buffer; C has initialised memory as far as anybody can tell, and it is only written.
        unsafe { core::slice::from_raw_parts_mut(message.data.cast::<u8>(), room) }
    };
    let error = datagram.icmp_error();
    let len = if error.is_some() { 0 } else { datagram.copy_to(buffer) };
    let flag = |set: bool, bit: u32| if set { bit } else { 0 };
    let realm = datagram.realm();
    *message = Msg {
        data: message.data,
        len,
        local: datagram.local().into(),
        remote: datagram.remote().into(),
        timestamp_ns: datagram.timestamp_ns(),
        kind: match datagram.kind() {
            Kind::Datagram => 1,
            Kind::Packet => 2,
            Kind::Error => 3,
        },
        flags: flag(error.is_none() && len < datagram.len(), TRUNCATED)
            | flag(datagram.is_from_kernel(), KERNEL)
            | flag(datagram.is_local(), LOCAL),
        ifindex: realm.map_or(0, |r| r.ifindex),
        vlan: realm.map_or(0, |r| r.vlan.raw()),
        mtu: error.map_or(0, |e| e.mtu),
        error: error.map_or(0, |e| e.errno),
        segment: 0,
        ttl: datagram.ttl(),
        tos: datagram.tos(),
        reserved: 0,
    };
}

/// # Safety
/// `endpoint` is from `afnet_attach`; `messages` points to `n` messages whose `data` holds `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn afnet_send(endpoint: *mut Handle, messages: *const Msg, n: c_uint) -> c_int {
    // SAFETY: by the caller's promise.
    let endpoint = unsafe { &mut (*endpoint).0 };
    endpoint.set_nonblocking(true);
    let mut sent = 0;
    let mut failure = 0;
    for i in 0..usize::try_from(n).unwrap_or(0) {
        // SAFETY: below `n`, valid by the caller's promise.
        match unsafe { send_one(endpoint, &*messages.add(i)) } {
            Ok(()) => sent += 1,
            Err(e) => {
                failure = failed(&e);
                break;
            }
        }
    }
    endpoint.flush();
    if sent == 0 { failure } else { sent }
}

/// # Safety
/// `message.data` holds `message.len` bytes.
unsafe fn send_one(endpoint: &mut Endpoint, message: &Msg) -> Result<(), Error> {
    let payload = if message.data.is_null() || message.len == 0 {
        &[]
    } else {
        // SAFETY: by the caller's promise.
        unsafe { core::slice::from_raw_parts(message.data.cast::<u8>().cast_const(), message.len) }
    };
    if endpoint.kind() == EndpointKind::Raw {
        return endpoint.send_packet(payload);
    }
    let remote = message.remote.get().ok_or(Error::Invalid("no destination"))?;
    let vlan = Vlan::from_raw(message.vlan).map_err(|_| Error::Invalid("no such VLAN"))?;
    let local = message.local.get();
    let by_kernel = message.flags & KERNEL != 0;
    let message = Message {
        local: local.map(|a| a.ip()).filter(|ip| !ip.is_unspecified()),
        local_port: local.map_or(0, |a| a.port()),
        ttl: message.ttl,
        tos: message.tos,
        segment: message.segment,
        dont_fragment: message.flags & DONT_FRAGMENT != 0,
        no_loop: message.flags & NO_LOOP != 0,
        realm: (message.ifindex != 0).then_some(Realm { ifindex: message.ifindex, vlan }),
        ..Message::new(remote, payload)
    };
    if by_kernel { endpoint.sender().send_by_kernel(&message) } else { endpoint.send(&message) }
}

/// # Safety
/// `endpoint` is from `afnet_attach`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn afnet_fd(endpoint: *const Handle) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe { &(*endpoint).0 }.as_fd().as_raw_fd()
}

/// # Safety
/// `endpoint` is from `afnet_attach`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn afnet_arm(endpoint: *mut Handle) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe { &mut (*endpoint).0 }.arm().into()
}

/// # Safety
/// `endpoint` is from `afnet_attach`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn afnet_connected(endpoint: *const Handle) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe { &(*endpoint).0 }.is_connected().into()
}

/// # Safety
/// `endpoint` is from `afnet_attach`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn afnet_reconnect(endpoint: *mut Handle) -> c_int {
    // SAFETY: by the caller's promise.
    status(unsafe { &mut (*endpoint).0 }.reconnect())
}
