//! One target under libFuzzer: the one of `lap-fuzz` that has this program's name.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lap_fuzz::run(env!("CARGO_BIN_NAME"), data));
