#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millhand_proto::fuzz::parcel(data));
