//! Waiting for a condition, with a bound.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long [`until`] waits. Generous, since only a failing test ever waits that long, and test machines stall.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(5);

/// Looks at `condition` until it yields a value, and returns that.
///
/// # Panics
/// After [`PATIENCE`], naming `what` was awaited.
#[track_caller]
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    match within(PATIENCE, condition) {
        Some(value) => value,
        None => panic!("waited {PATIENCE:?} in vain: {what}"),
    }
}

/// As [`until`], for a condition that is just true or false.
#[track_caller]
pub fn until_true(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || condition().then_some(()));
}

/// Looks at `condition` until it yields a value or `time` is over.
pub fn within<T>(time: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + time;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(INTERVAL);
    }
}
