//! Each codec's decoder, under its cap.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thalweg_core::compression::Compression;

const LIMIT: usize = 1 << 20;
/// What a first piece of output may have at most beyond the cap.
const SLACK: usize = 64 << 10;

fuzz_target!(|data: &[u8]| {
    let Some((codec, packed)) = data.split_first() else { return };
    let codec = Compression::ALL[usize::from(*codec) % Compression::ALL.len()];
    let mut out = Vec::new();
    let result = codec.inflate(packed, &mut out, LIMIT);
    assert!(out.capacity() <= LIMIT + SLACK);
    if result.is_ok() {
        assert!(out.len() <= LIMIT);
        let mut again = Vec::new();
        codec.compress(&out, &mut again).expect("memory to memory");
        let mut back = Vec::new();
        codec.inflate(&again, &mut back, LIMIT).expect("what was compressed here inflates");
        assert_eq!(out, back);
    }
});
