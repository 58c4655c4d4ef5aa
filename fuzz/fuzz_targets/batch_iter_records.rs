//! The walk over a log file's or a fetch's bytes, without any check in front.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thalweg_core::batch::BatchIter;

const MAX_INFLATED: usize = 4 << 20;

fuzz_target!(|data: &[u8]| {
    let mut scratch = Vec::new();
    let mut batches = BatchIter::new(data);
    let mut walked = 0;
    while let Some(batch) = batches.next() {
        let Ok(batch) = batch else {
            assert!(batches.next().is_none(), "the walk ends behind an error");
            return;
        };
        walked += batch.bytes.len();
        assert_eq!(walked + batches.remaining().len(), data.len());
        let _ = batch.verify();
        let Ok(mut records) = batch.records(&mut scratch, MAX_INFLATED) else { continue };
        while let Some(record) = records.next() {
            match record {
                Ok(record) => assert_eq!(record.headers.iter().count(), record.headers.len()),
                Err(_) => assert!(records.next().is_none(), "the walk ends behind an error"),
            }
        }
    }
    assert_eq!(walked, data.len());
});
