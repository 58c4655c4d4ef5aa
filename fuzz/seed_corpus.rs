//! Writes the first inputs of every target: small valid batches of each codec, and packed bytes.

use std::path::Path;
use std::{fs, io};
use thalweg_core::Timestamp;
use thalweg_core::batch::{BatchBuilder, Header, ProducerStamp};
use thalweg_core::compression::Compression;

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (bits, codec) in (0u8..).zip(Compression::ALL) {
        for count in [1, 2, 20] {
            let mut builder = BatchBuilder::new(codec, 4096);
            for i in 0..count {
                let value = format!("value {i} of a log");
                let headers =
                    [Header { key: b"trace", value: Some(b"1") }, Header { key: b"h", value: None }];
                let key = (i % 2 == 0).then_some(&b"key"[..]);
                builder.append(
                    Timestamp(1_700_000_000_000 + i),
                    key,
                    Some(value.as_bytes()),
                    &headers[..i as usize % 3],
                );
            }
            let batch = builder.finish(ProducerStamp::NONE);
            let name = format!("{codec}-{count}");
            write(&corpus.join("batch_check"), &name, &batch)?;
            write(&corpus.join("batch_iter_records"), &name, &batch)?;
            write(&corpus.join("batch_iter_records"), &format!("{name}-twice"), &batch.repeat(2))?;
            let mut packed = vec![bits];
            codec.compress(
                b"something of which something repeats ".repeat(count as usize).as_slice(),
                &mut packed,
            )?;
            write(&corpus.join("decompress"), &name, &packed)?;
        }
    }
    println!("wrote the seeds under {}", corpus.display());
    Ok(())
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join(name), bytes)
}
