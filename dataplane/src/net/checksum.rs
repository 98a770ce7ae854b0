//! Internet checksums (RFC 1071, 1624), and copying while summing.
//!
//! A *partial* is a ones' complement sum of 16-bit words **in the machine's byte order**, kept in a `u32` that is
//! at most `0xffff` after [`sum`]; so thousands of partials can be added with plain `+`. RFC 1071 2(B): the sum does
//! not care about the byte order as long as the result is stored the same way ([`finish`] gives the two bytes).
//!
//! The mapped form of addresses makes one pseudo header serve both families: the `ff:ff` of an IPv4-mapped address
//! is zero in ones' complement, and the lengths are below 2^16 in both.
//!
//! Unsafe code: the destination of a copy is memory that a tenant can write too (a ring), or the source is, so
//! they are raw pointers and never become references. [`copy_and_sum_shared`] reads every byte of the source
//! exactly once, so that what was summed is what was copied, whatever the tenant does meanwhile.

use super::Address;

/// Folds a wide sum of words to at most `0xffff`.
#[inline]
const fn fold64(s: u64) -> u32 {
    // Three steps are enough: 2^64-1 -> below 2^33 -> below 2^32 -> folded in 16-bit steps.
    let s = (s & 0xffff_ffff) + (s >> 32);
    let s = (s & 0xffff) + (s >> 16 & 0xffff) + (s >> 32);
    let s = (s & 0xffff) + (s >> 16);
    let s = (s & 0xffff) + (s >> 16);
    (s & 0xffff) as u32
}

/// Folds a partial, or several added ones, to 16 bits.
#[inline]
pub const fn fold(partial: u32) -> u16 {
    let s = (partial & 0xffff) + (partial >> 16);
    let s = (s & 0xffff) + (s >> 16);
    (s & 0xffff) as u16
}

/// The checksum field's two bytes for a sum over everything else (RFC 1071).
#[inline]
pub const fn finish(partial: u32) -> [u8; 2] {
    (!fold(partial)).to_ne_bytes()
}

/// As [`finish`] for UDP, where zero means "no checksum" and is sent as all ones (RFC 768).
#[inline]
pub const fn finish_udp(partial: u32) -> [u8; 2] {
    match finish(partial) {
        [0, 0] => [0xff, 0xff],
        sum => sum,
    }
}

/// Whether a sum over everything, the checksum field included, is right.
#[inline]
pub const fn is_valid(partial: u32) -> bool {
    fold(partial) == 0xffff
}

/// Partial of a 16-bit number in network order.
#[inline]
pub const fn word(n: u16) -> u32 {
    n.to_be() as u32
}

/// `first` followed by `second`; `odd`: the first has an odd number of bytes.
#[inline]
pub const fn combine(first: u32, second: u32, odd: bool) -> u32 {
    let second = fold(second);
    let second = if odd { second.swap_bytes() } else { second };
    fold(first) as u32 + second as u32
}

/// Partial of `bytes`, as if followed by a zero byte where their number is odd.
#[inline]
pub fn sum(bytes: &[u8]) -> u32 {
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0u64; 4];
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, w) in lanes.iter_mut().zip(words) {
            *lane = add(*lane, u64::from_ne_bytes(*w));
        }
    }
    let [a, b, c, d] = lanes;
    let s = add(add(a, b), add(c, d));
    fold64(add(s, tail(rest)))
}

/// Sum of fewer than 32 bytes.
#[inline]
fn tail(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut s = 0;
    for w in words {
        s = add(s, u64::from_ne_bytes(*w));
    }
    let mut last = [0u8; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    add(s, u64::from_ne_bytes(last))
}

/// Ones' complement addition of 64 bits.
#[inline]
const fn add(a: u64, b: u64) -> u64 {
    let (s, carry) = a.overflowing_add(b);
    s + carry as u64
}

/// Partial of the pseudo header (RFC 768, RFC 8200 8.1) for addresses of either family.
#[inline]
pub fn pseudo(src: &Address, dst: &Address, protocol: u8, length: u16) -> u32 {
    sum(src) + sum(dst) + word(u16::from(protocol)) + word(length)
}

/// New checksum field after a 16-bit word under it changed (RFC 1624 equation 3). All numbers in network order
/// as read by `u16::from_be_bytes`.
#[inline]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(!checksum as u32 + !old as u32 + new as u32)
}

/// Copies `src` to `dst` and returns the partial of what was copied.
///
/// # Safety
/// `dst` must be valid for writes of `src.len()` bytes and not overlap `src`. Other processes may read and write
/// it at the same time: nothing is read from it.
#[inline]
pub unsafe fn copy_and_sum(src: &[u8], dst: *mut u8) -> u32 {
    let (blocks, rest) = src.as_chunks::<32>();
    let mut lanes = [0u64; 4];
    let mut to = dst;
    for block in blocks {
        // SAFETY: `to` has room for what is left of `src`, at least these 32 bytes (the caller's promise).
        unsafe {
            std::ptr::copy_nonoverlapping(block.as_ptr(), to, 32);
            to = to.add(32);
        }
        let (words, _) = block.as_chunks::<8>();
        for (lane, w) in lanes.iter_mut().zip(words) {
            *lane = add(*lane, u64::from_ne_bytes(*w));
        }
    }
    // SAFETY: as above, for the remaining bytes.
    unsafe { std::ptr::copy_nonoverlapping(rest.as_ptr(), to, rest.len()) };
    let [a, b, c, d] = lanes;
    let s = add(add(a, b), add(c, d));
    fold64(add(s, tail(rest)))
}

/// [`copy_and_sum`] for a source that a tenant may be writing at the same time: every byte is read exactly once.
///
/// # Safety
/// `src` must be valid for reads and `dst` for writes of `len` bytes, not overlapping. Other *processes* may write
/// either meanwhile.
#[inline]
pub unsafe fn copy_and_sum_shared(src: *const u8, len: usize, dst: *mut u8) -> u32 {
    let mut lanes = [0u64; 4];
    let mut at = 0;
    while len - at >= 32 {
        for (i, lane) in lanes.iter_mut().enumerate() {
            // SAFETY: at + 8 * i + 8 <= at + 32 <= len, within both areas (the caller's promise).
            *lane = add(*lane, unsafe { move_word(src.add(at + 8 * i), dst.add(at + 8 * i)) });
        }
        at += 32;
    }
    let [a, b, c, d] = lanes;
    let mut s = add(add(a, b), add(c, d));
    while len - at >= 8 {
        // SAFETY: at + 8 <= len, as above.
        s = add(s, unsafe { move_word(src.add(at), dst.add(at)) });
        at += 8;
    }
    let mut last = [0u8; 8];
    for to in last.iter_mut().take(len - at) {
        // SAFETY: at < len, as above.
        unsafe {
            *to = src.add(at).read_volatile();
            dst.add(at).write(*to);
        }
        at += 1;
    }
    fold64(add(s, u64::from_ne_bytes(last)))
}

/// Moves eight bytes with a single read of the source and returns them.
///
/// # Safety
/// `src` valid for reads and `dst` for writes of 8 bytes.
#[inline]
unsafe fn move_word(src: *const u8, dst: *mut u8) -> u64 {
    /// Eight bytes without alignment, so that a volatile read of it may be unaligned.
    #[repr(C, packed)]
    #[derive(Clone, Copy)]
    struct Unaligned(u64);
    // SAFETY: the caller's promise; `Unaligned` has alignment 1. Volatile: the compiler may neither repeat the
    // read nor go back to the source for the sum.
    unsafe {
        let w = src.cast::<Unaligned>().read_volatile();
        dst.cast::<Unaligned>().write(w);
        w.0
    }
}

#[cfg(test)]
mod tests;
