//! libFuzzer calls `proxy`.
#![no_main]
#![allow(unsafe_code)] // The entry point that the macro makes.

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast_fuzz::proxy(data));
