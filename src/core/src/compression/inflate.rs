//! Inflating, memory to memory, into a buffer that grows with what comes out and stops at a cap.

use super::deflate::XERIAL_HEADER;
use super::{Compression, InflateError};
use std::cell::RefCell;
use std::io::{self, Read};
use zstd::zstd_safe::{DCtx, ResetDirective};

/// The largest zstd window that is accepted, as a power of two: 8 MiB, what RFC 8878 tells decoders to support. Levels above
/// 19 may ask for more on large inputs.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// The first piece of output is this many times the input: a usual batch then inflates without a second piece.
const USUAL_RATIO: usize = 4;
/// The smallest first piece of output.
const MIN_PIECE: usize = 16 * 1024;
/// A snappy copy element gives at most 64 bytes for 3: no honest block claims more than this many times its size.
const SNAPPY_MAX_RATIO: usize = 22;
/// Xerial's magic; the versions behind it are not looked at, as there has been only one.
const XERIAL_MAGIC_LEN: usize = 8;

thread_local! {
    // Kept for its buffers: at most a window of 8 MiB for each thread that inflates.
    static ZSTD: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

pub(super) fn gzip(input: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), InflateError> {
    read_capped(Compression::Gzip, flate2::bufread::MultiGzDecoder::new(input), out, input.len(), limit)
}

pub(super) fn lz4(input: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), InflateError> {
    let mut decoder = lz4_flex::frame::FrameDecoder::new(input);
    read_capped(Compression::Lz4, &mut decoder, out, input.len(), limit)?;
    if !decoder.get_ref().is_empty() {
        return Err(malformed(Compression::Lz4, "bytes follow the frame"));
    }
    Ok(())
}

pub(super) fn zstd(input: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), InflateError> {
    ZSTD.with_borrow_mut(|context| {
        // A batch that failed half-way may have left its frame open.
        context
            .reset(ResetDirective::SessionOnly)
            .map_err(|_| malformed(Compression::Zstd, "the decoder cannot be reset"))?;
        let mut decoder = zstd::stream::read::Decoder::with_context(input, context);
        decoder
            .window_log_max(ZSTD_WINDOW_LOG_MAX)
            .map_err(|error| malformed(Compression::Zstd, &error.to_string()))?;
        read_capped(Compression::Zstd, decoder, out, input.len(), limit)
    })
}

/// Reads to the end, in pieces that double, to at most `limit` bytes.
fn read_capped(
    codec: Compression,
    mut reader: impl Read,
    out: &mut Vec<u8>,
    packed: usize,
    limit: usize,
) -> Result<(), InflateError> {
    // One byte more than allowed tells a full buffer from a bomb.
    let cap = limit.saturating_add(1);
    let first = packed.saturating_mul(USUAL_RATIO).clamp(MIN_PIECE, MIN_PIECE.max(cap));
    let mut filled = 0;
    loop {
        if filled == out.len() {
            if filled == cap {
                return Err(InflateError::TooLarge { limit });
            }
            let next = filled.saturating_mul(2).max(first).min(cap);
            out.reserve_exact(next - filled);
            out.resize(next, 0);
        }
        match reader.read(&mut out[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(malformed(codec, &error.to_string())),
        }
    }
    out.truncate(filled);
    if filled > limit { Err(InflateError::TooLarge { limit }) } else { Ok(()) }
}

pub(super) fn snappy(input: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), InflateError> {
    let mut decoder = snap::raw::Decoder::new();
    let Some(framed) = input.strip_prefix(&XERIAL_HEADER[..XERIAL_MAGIC_LEN]) else {
        return snappy_block(&mut decoder, input, out, limit);
    };
    let mut rest = framed
        .get(XERIAL_HEADER.len() - XERIAL_MAGIC_LEN..)
        .ok_or_else(|| malformed(Compression::Snappy, "its framing is cut off"))?;
    while !rest.is_empty() {
        let (length, behind) = rest
            .split_first_chunk::<4>()
            .ok_or_else(|| malformed(Compression::Snappy, "a block's length is cut off"))?;
        let (packed, behind) = behind
            .split_at_checked(u32::from_be_bytes(*length) as usize)
            .ok_or_else(|| malformed(Compression::Snappy, "a block is cut off"))?;
        snappy_block(&mut decoder, packed, out, limit)?;
        rest = behind;
    }
    Ok(())
}

/// Inflates one block behind what `out` holds. Its claimed length is checked before anything is allocated for it.
fn snappy_block(
    decoder: &mut snap::raw::Decoder,
    packed: &[u8],
    out: &mut Vec<u8>,
    limit: usize,
) -> Result<(), InflateError> {
    let broken = |error: snap::Error| malformed(Compression::Snappy, &error.to_string());
    let claimed = snap::raw::decompress_len(packed).map_err(broken)?;
    if claimed > limit.saturating_sub(out.len()) {
        return Err(InflateError::TooLarge { limit });
    }
    if claimed > packed.len().saturating_mul(SNAPPY_MAX_RATIO) {
        return Err(malformed(Compression::Snappy, "a block claims more than it can hold"));
    }
    let at = out.len();
    if out.capacity() - at < claimed {
        // Doubles like the other codecs' output, and like it never goes beyond the limit.
        out.reserve_exact(claimed.max(at.min(limit - at)));
    }
    out.resize(at + claimed, 0);
    let written = decoder.decompress(packed, &mut out[at..]).map_err(broken)?;
    out.truncate(at + written);
    Ok(())
}

fn malformed(codec: Compression, reason: &str) -> InflateError {
    InflateError::Malformed { codec, reason: reason.to_owned() }
}
