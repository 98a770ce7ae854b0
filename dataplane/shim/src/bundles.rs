//! Sends of many segments (UDP_SEGMENT), where a device copies what it sends.
//!
//! A worker cuts a bundle into packets, and a device in copy mode takes them one by one through its driver. The kernel's
//! stack cuts it at the very end, or leaves that to the device, and a receiver on the same machine gets it whole. So
//! the kernel sends for a socket that sends bundles most of the time. All datagrams of a socket go one way at a time, and
//! the way changes when nothing is under way, so that they stay in order.

/// Segments of a send that the kernel is better at; with fewer, what each send costs it is as much.
const MANY: usize = 8;
/// Segments sent in bundles, less the other sends, at which the kernel begins; it goes on until none are left.
const BEGIN: u16 = 1024;
/// The most that are counted.
const MOST: u16 = 2 * BEGIN;

/// What a socket has sent of late, and who sends now. All zero: the rings do, always.
#[derive(Debug, Default)]
pub(crate) struct Bundles {
    /// A device copies what it sends.
    copied: bool,
    weight: u16,
    by_kernel: bool,
    told: bool,
}

impl Bundles {
    /// `copied`: some device copies what it sends.
    pub(crate) fn new(copied: bool) -> Self {
        Self { copied, ..Self::default() }
    }

    /// Whether a send of so many segments is one for [`Self::weigh`].
    #[inline]
    pub(crate) fn concerns(&self, segments: usize) -> bool {
        self.copied && (segments >= MANY || self.weight > 0)
    }

    /// Whether the kernel is to send the next, of so many segments. `drained`: whether the rings are empty; waits a moment
    /// for it if need be.
    #[cold]
    pub(crate) fn weigh(&mut self, segments: usize, drained: impl FnOnce() -> bool) -> bool {
        self.weight = match u16::try_from(segments) {
            Ok(few) if segments < MANY => self.weight.saturating_sub(few.min(1)),
            Ok(many) => self.weight.saturating_add(many).min(MOST),
            Err(_) => MOST,
        };
        self.by_kernel = match self.by_kernel {
            true => self.weight > 0,
            false => self.weight >= BEGIN && drained(),
        };
        self.by_kernel
    }

    /// Who sends, if that has changed since this was asked.
    #[inline]
    pub(crate) fn news(&mut self) -> Option<bool> {
        let news = (self.told != self.by_kernel).then_some(self.by_kernel);
        self.told = self.by_kernel;
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bundles: &mut Bundles, segments: usize, drained: impl FnOnce() -> bool) -> bool {
        bundles.concerns(segments) && bundles.weigh(segments, drained)
    }

    fn send(bundles: &mut Bundles, segments: usize, times: usize) -> Vec<bool> {
        (0..times).map(|_| one(bundles, segments, || true)).collect()
    }

    #[test]
    fn the_kernel_sends_for_those_who_send_bundles() {
        let mut bundles = Bundles::new(true);
        assert_eq!(send(&mut bundles, 64, 16), [vec![false; 15], vec![true]].concat());
        assert_eq!((bundles.news(), bundles.news()), (Some(true), None));
        // Also what is sent in between.
        assert_eq!(send(&mut bundles, 1, 100), [true; 100]);
        assert!(send(&mut bundles, 8, 1000).iter().all(|kernel| *kernel));
        // Until it is no longer what it does.
        let singles = send(&mut bundles, 1, 10_000);
        assert_eq!(singles.iter().position(|kernel| !kernel), Some(usize::from(MOST) - 1));
        assert_eq!(singles.iter().filter(|kernel| !**kernel).count(), 10_001 - usize::from(MOST));
        assert_eq!(bundles.news(), Some(false));
    }

    #[test]
    fn the_way_changes_when_nothing_is_under_way() {
        let mut bundles = Bundles::new(true);
        for _ in 0..100 {
            assert!(!one(&mut bundles, 64, || false));
        }
        assert_eq!(bundles.news(), None);
        assert!(one(&mut bundles, 64, || true));
        assert!(one(&mut bundles, 64, || panic!("asked in vain")));
    }

    #[test]
    fn few_segments_and_devices_that_do_not_copy_change_nothing() {
        let mut few = Bundles::new(true);
        assert!(send(&mut few, MANY - 1, 10_000).iter().all(|kernel| !kernel));
        for mut bundles in [Bundles::new(false), Bundles::default()] {
            assert!(send(&mut bundles, 64, 10_000).iter().all(|kernel| !kernel));
        }
        // Nothing that a program says is too much.
        let mut huge = Bundles::new(true);
        assert_eq!(send(&mut huge, usize::MAX, 2), [true; 2]);
    }
}
