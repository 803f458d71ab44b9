#![no_main]

libfuzzer_sys::fuzz_target!(init: mks_fuzz_doors::open("context"), |input: &[u8]| mks_fuzz_doors::run(input));
