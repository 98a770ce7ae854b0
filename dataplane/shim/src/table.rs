//! Which descriptor is which socket, which descriptors are the shim's own, and which ports listen to the loopback.
//!
//! A slot for each descriptor number, in memory that exists once it is touched. Reading takes no lock: the slot, then
//! the socket's count of users, then the slot again.

use core::{
    ptr,
    sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, AtomicUsize, Ordering},
};

use crate::socket::{Socket, Use};

/// Descriptors below this number are followed: the kernel's default for `fs.nr_open`.
const SLOTS: usize = 1 << 20;
/// Slots are looked at once to see that nothing is there: not in chunks, so that a look is one load.
static TABLE: [AtomicPtr<Socket>; SLOTS] = [const { AtomicPtr::new(ptr::null_mut()) }; SLOTS];
/// Descriptors that the shim has for itself, a bit each.
static OWN: [AtomicUsize; SLOTS / usize::BITS as usize] =
    [const { AtomicUsize::new(0) }; SLOTS / usize::BITS as usize];
/// One above the highest of them ever.
static HIGH_OWN: AtomicI32 = AtomicI32::new(0);
/// One above the highest slot ever used.
static HIGH: AtomicUsize = AtomicUsize::new(0);
/// Ports at which accelerated sockets listen to the loopback, 65536 counters that forked processes share.
static PORTS: AtomicPtr<AtomicU8> = AtomicPtr::new(ptr::null_mut());
/// The process that the table is of. A child of vfork() runs in its parent's memory, but its descriptors are its own.
static PID: AtomicI32 = AtomicI32::new(0);

#[inline]
fn slot(fd: i32) -> Option<&'static AtomicPtr<Socket>> {
    TABLE.get(usize::try_from(fd).ok()?)
}

/// The socket of a descriptor.
#[inline]
pub(crate) fn get(fd: i32) -> Option<Use> {
    let slot = slot(fd)?;
    let mut entry = slot.load(Ordering::Acquire);
    while !entry.is_null() {
        // SAFETY: sockets are never freed.
        let socket: &'static Socket = unsafe { &*entry };
        let entered = socket.enter();
        let now = slot.load(Ordering::Acquire);
        if entered {
            let usage = Use::of(socket);
            if now == entry {
                return Some(usage);
            }
        }
        entry = now;
    }
    None
}

/// Whether the descriptor is a socket that is followed.
#[inline]
pub(crate) fn has(fd: i32) -> bool {
    slot(fd).is_some_and(|slot| !slot.load(Ordering::Relaxed).is_null())
}

/// Whether it still is this socket.
pub(crate) fn is(fd: i32, socket: &Socket) -> bool {
    slot(fd).is_some_and(|slot| ptr::eq(slot.load(Ordering::Acquire), socket))
}

/// Some descriptor of a socket.
pub(crate) fn other(socket: &Socket) -> Option<i32> {
    (0..high()).find(|fd| is(*fd, socket))
}

/// Enters a socket that the caller has counted a user for. What was there is gone. `false`: a number out of range.
pub(crate) fn set(fd: i32, socket: &'static Socket) -> bool {
    let Some(slot) = slot(fd) else { return false };
    if let Ok(number) = usize::try_from(fd) {
        HIGH.fetch_max(number + 1, Ordering::Relaxed);
    }
    let old = slot.swap(ptr::from_ref(socket).cast_mut(), Ordering::AcqRel);
    release(old);
    true
}

/// Takes a descriptor out.
pub(crate) fn clear(fd: i32) {
    if let Some(slot) = slot(fd) {
        release(slot.swap(ptr::null_mut(), Ordering::AcqRel));
    }
}

fn release(entry: *mut Socket) {
    if !entry.is_null() {
        // SAFETY: sockets are never freed; the slot's user is counted out here.
        let socket: &'static Socket = unsafe { &*entry };
        socket.leave();
    }
}

/// One above the highest descriptor of a socket so far.
pub(crate) fn high() -> i32 {
    i32::try_from(HIGH.load(Ordering::Relaxed)).unwrap_or(i32::MAX)
}

/// Calls `visit` for each socket, once.
pub(crate) fn each(mut visit: impl FnMut(&Use)) {
    let mut seen: Vec<*const Socket> = Vec::new();
    for fd in 0..high() {
        if let Some(socket) = get(fd)
            && !seen.contains(&ptr::from_ref(&*socket))
        {
            seen.push(ptr::from_ref(&*socket));
            visit(&socket);
        }
    }
}

/// In a forked child: users are the descriptors, and nobody else.
pub(crate) fn recount() {
    let sockets: Vec<*mut Socket> = (0..high())
        .filter_map(|fd| slot(fd).map(|s| s.load(Ordering::Acquire)))
        .filter(|entry| !entry.is_null())
        .collect();
    for entry in &sockets {
        let users = sockets.iter().filter(|other| *other == entry).count();
        // SAFETY: sockets are never freed.
        unsafe { &**entry }.recount(u32::try_from(users).unwrap_or(u32::MAX));
    }
}

/// Marks a descriptor as the shim's own, or no longer.
pub(crate) fn mine(fd: i32, own: bool) {
    HIGH_OWN.fetch_max(fd.saturating_add(1), Ordering::Relaxed);
    let Ok(fd) = usize::try_from(fd) else { return };
    let Some(word) = OWN.get(fd / usize::BITS as usize) else { return };
    let bit = 1 << (fd % usize::BITS as usize);
    if own {
        word.fetch_or(bit, Ordering::Relaxed);
    } else {
        word.fetch_and(!bit, Ordering::Relaxed);
    }
}

/// One above the highest descriptor that the shim has ever had for itself.
pub(crate) fn high_own() -> i32 {
    HIGH_OWN.load(Ordering::Relaxed)
}

/// Whether a descriptor is the shim's own.
#[inline]
pub(crate) fn is_mine(fd: i32) -> bool {
    let Ok(fd) = usize::try_from(fd) else { return false };
    let word = OWN.get(fd / usize::BITS as usize).map_or(0, |word| word.load(Ordering::Relaxed));
    word >> (fd % usize::BITS as usize) & 1 == 1
}

/// Whether a descriptor can be followed at all.
pub(crate) fn in_range(fd: i32) -> bool {
    slot(fd).is_some()
}

/// Makes the table that of this process.
pub(crate) fn claim_process() {
    // SAFETY: no arguments, no failure.
    PID.store(unsafe { libc::getpid() }, Ordering::Relaxed);
    if PORTS.load(Ordering::Relaxed).is_null() {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: new memory at an address of the kernel's choice.
        let base = unsafe { libc::mmap(ptr::null_mut(), 1 << 16, access, kind, -1, 0) };
        if base != libc::MAP_FAILED {
            PORTS.store(base.cast(), Ordering::Relaxed);
        }
    }
}

/// Whether this is a child of vfork(), which borrows our memory.
pub(crate) fn borrowed() -> bool {
    // SAFETY: no arguments, no failure.
    PID.load(Ordering::Relaxed) != unsafe { libc::getpid() }
}

fn port(port: u16) -> Option<&'static AtomicU8> {
    let base = PORTS.load(Ordering::Relaxed);
    // SAFETY: 65536 counters lie there, for ever.
    (!base.is_null()).then(|| unsafe { &*base.add(usize::from(port)) })
}

/// Counts a socket in or out that listens to the loopback at a port.
pub(crate) fn listens(number: u16, more: bool) {
    if let Some(count) = port(number) {
        if more {
            count.fetch_add(1, Ordering::Relaxed);
        } else {
            let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        }
    }
}

/// Whether somebody of this program listens to the loopback at a port, on the fast path.
pub(crate) fn hears(number: u16) -> bool {
    port(number).is_some_and(|count| count.load(Ordering::Relaxed) != 0)
}
