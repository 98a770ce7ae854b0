//! See `afnet_tests::fuzz::request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| afnet_tests::fuzz::request(data));
