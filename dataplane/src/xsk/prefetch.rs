//! Prefetching of packet headers: another CPU has just written them, and the miss costs more than all of the parsing.

/// Asks for the cache line at `at`, for reading. A hint: never faults, whatever the address.
#[inline(always)]
pub(crate) fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch never faults; SSE is part of x86_64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = at;
    }
}
