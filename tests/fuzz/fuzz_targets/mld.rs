//! See `afnet_control::multicast::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| afnet_control::multicast::fuzz::mld(data));
