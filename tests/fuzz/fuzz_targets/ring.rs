//! See `afnet_tests::fuzz::ring`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| afnet_tests::fuzz::ring(data));
