//! A ring in plain memory of this process: for tests of whatever stands on rings, without files or privileges.

use core::ptr::NonNull;
use std::sync::Arc;

use afnet_abi::shm::RECORD_ALIGN;

use crate::{
    Consumer, Producer,
    control::{End, Words},
    memory::{Area, Region},
    sync::Tracker,
};

/// Both ends of a new ring with `len` bytes of data in this process's memory.
///
/// # Panics
/// If `len` is not a power of two or less than two empty records (128 bytes).
pub fn pair(len: usize) -> (Producer, Consumer) {
    assert!(len.is_power_of_two() && len >= 2 * RECORD_ALIGN, "bad ring length {len}");
    let region = Arc::new(Region::plain(len));
    let tracker = Arc::new(Tracker::new(len / RECORD_ALIGN));
    let Region::Plain { control, data } = &*region else { unreachable!("made two lines above") };
    let control = NonNull::from(&**control);
    // The slots are UnsafeCells: writing through a pointer made from a shared reference is allowed.
    let base = NonNull::from(&**data).cast::<u8>();
    let area = || {
        // SAFETY: `len` bytes, aligned as Slot is, owned by the region; both ends share the tracker.
        unsafe { Area::new(base, len, Arc::clone(&region), Arc::clone(&tracker)) }
    };
    // SAFETY: the control words are boxed in the region, which the Area beside them keeps alive.
    let words = |end| unsafe { Words::new(control, end) };
    (Producer::new(area(), words(End::Producer)), Consumer::new(area(), words(End::Consumer)))
}
