//! Compressing, memory to memory, behind what the output holds.

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use std::cell::RefCell;
use std::io::{self, Write};
use zstd::zstd_safe::{CCtx, compress_bound, get_error_name};

/// Magic, version and compatible version of xerial's snappy framing, as Kafka's Java client writes it.
pub(super) const XERIAL_HEADER: [u8; 16] =
    [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
/// Bytes of a xerial block before compression.
const XERIAL_BLOCK: usize = 32 * 1024;

thread_local! {
    // Its tables take longer to set up than a small batch to compress. About 1.3 MiB for each thread that compresses.
    static ZSTD: RefCell<CCtx<'static>> = RefCell::new(CCtx::create());
}

pub(super) fn gzip(input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
    encoder.write_all(input)?;
    encoder.finish().map(drop)
}

pub(super) fn snappy(input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    out.extend_from_slice(&XERIAL_HEADER);
    let mut encoder = snap::raw::Encoder::new();
    for block in input.chunks(XERIAL_BLOCK) {
        let length_at = out.len();
        let at = length_at + 4;
        out.resize(at + snap::raw::max_compress_len(block.len()), 0);
        let packed = encoder.compress(block, &mut out[at..]).map_err(io::Error::other)?;
        // A block is 32 KiB, so its packed length fits.
        out[length_at..at].copy_from_slice(&(packed as u32).to_be_bytes());
        out.truncate(at + packed);
    }
    Ok(())
}

pub(super) fn lz4(input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    // What Kafka's Java client writes; its reader knows no linked blocks.
    let frame = FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
    let mut encoder = FrameEncoder::with_frame_info(frame, out);
    encoder.write_all(input)?;
    encoder.finish().map(drop).map_err(io::Error::other)
}

pub(super) fn zstd(input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let at = out.len();
    out.resize(at + compress_bound(input.len()), 0);
    let written = ZSTD
        .with_borrow_mut(|context| context.compress(&mut out[at..], input, zstd::DEFAULT_COMPRESSION_LEVEL))
        .map_err(|code| io::Error::other(get_error_name(code)))?;
    out.truncate(at + written);
    Ok(())
}
