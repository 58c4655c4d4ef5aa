//! The codecs of a record batch, each with a cap on what it may inflate to.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

/// A codec, numbered as in the batch's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// The records as they are.
    #[default]
    None = 0,
    /// gzip (RFC 1952).
    Gzip = 1,
    /// snappy, in xerial framing.
    Snappy = 2,
    /// LZ4 frame format.
    Lz4 = 3,
    /// Zstandard (RFC 8878).
    Zstd = 4,
}

/// Why bytes could not be inflated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// They inflate to more than is allowed.
    #[error("the records inflate to more than {limit} bytes")]
    TooLarge {
        /// What is allowed.
        limit: usize,
    },
    /// They are not what the codec writes.
    #[error("the records are not valid {codec}: {reason}")]
    Malformed {
        /// The codec.
        codec: Compression,
        /// The codec's complaint.
        reason: String,
    },
}

/// Magic, version and compatible version of xerial's snappy framing, as Kafka's Java client writes it.
const XERIAL_HEADER: [u8; 16] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
/// Bytes of a xerial block before compression.
const XERIAL_BLOCK: usize = 32 * 1024;
/// The largest zstd window that is accepted, as a power of two: 8 MiB, what RFC 8878 recommends to support.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

impl Compression {
    /// Every codec.
    pub const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    /// The codec of that number in a batch's attributes.
    pub const fn from_bits(bits: i16) -> Option<Compression> {
        match bits {
            0 => Some(Compression::None),
            1 => Some(Compression::Gzip),
            2 => Some(Compression::Snappy),
            3 => Some(Compression::Lz4),
            4 => Some(Compression::Zstd),
            _ => None,
        }
    }

    /// The number in a batch's attributes.
    pub const fn bits(self) -> i16 {
        self as i16
    }

    /// Compresses `input` behind what `out` holds.
    pub fn compress(self, input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Compression::None => out.extend_from_slice(input),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
                encoder.write_all(input)?;
                encoder.finish()?;
            }
            Compression::Snappy => {
                out.extend_from_slice(&XERIAL_HEADER);
                let mut encoder = snap::raw::Encoder::new();
                for block in input.chunks(XERIAL_BLOCK) {
                    let packed = encoder.compress_vec(block).map_err(io::Error::other)?;
                    out.extend_from_slice(&(packed.len() as u32).to_be_bytes());
                    out.extend_from_slice(&packed);
                }
            }
            Compression::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(out);
                encoder.write_all(input)?;
                encoder.finish().map_err(io::Error::other)?;
            }
            Compression::Zstd => zstd::stream::copy_encode(input, out, 0)?,
        }
        Ok(())
    }

    /// Inflates `input` into `out`, which is cleared first, to at most `limit` bytes.
    pub fn inflate(self, input: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), InflateError> {
        out.clear();
        let malformed = |reason: String| InflateError::Malformed { codec: self, reason };
        let result = match self {
            Compression::None => {
                if input.len() > limit {
                    return Err(InflateError::TooLarge { limit });
                }
                out.extend_from_slice(input);
                return Ok(());
            }
            Compression::Snappy => return inflate_snappy(input, out, limit),
            Compression::Gzip => read_capped(flate2::read::MultiGzDecoder::new(input), out, limit),
            Compression::Lz4 => read_capped(lz4_flex::frame::FrameDecoder::new(input), out, limit),
            Compression::Zstd => zstd::stream::read::Decoder::with_buffer(input).and_then(|mut decoder| {
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                read_capped(decoder, out, limit)
            }),
        };
        match result {
            Ok(true) => Ok(()),
            Ok(false) => Err(InflateError::TooLarge { limit }),
            Err(error) => Err(malformed(error.to_string())),
        }
    }
}

/// Reads to the end, or gives `false` when there is more than `limit`.
fn read_capped(reader: impl Read, out: &mut Vec<u8>, limit: usize) -> io::Result<bool> {
    reader.take(limit as u64 + 1).read_to_end(out)?;
    Ok(out.len() <= limit)
}

fn inflate_snappy(input: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), InflateError> {
    let malformed =
        |reason: &str| InflateError::Malformed { codec: Compression::Snappy, reason: reason.to_owned() };
    let mut decoder = snap::raw::Decoder::new();
    let mut block = |packed: &[u8], out: &mut Vec<u8>| {
        // The claimed length is checked against the cap before anything is allocated for it.
        let claimed = snap::raw::decompress_len(packed).map_err(|error| malformed(&error.to_string()))?;
        if claimed > limit - out.len().min(limit) {
            return Err(InflateError::TooLarge { limit });
        }
        let at = out.len();
        out.resize(at + claimed, 0);
        let written =
            decoder.decompress(packed, &mut out[at..]).map_err(|error| malformed(&error.to_string()))?;
        out.truncate(at + written);
        Ok(())
    };
    let Some(mut rest) = input.strip_prefix(&XERIAL_HEADER[..8]).and_then(|rest| rest.get(8..)) else {
        return block(input, out);
    };
    while !rest.is_empty() {
        let (length, behind) =
            rest.split_first_chunk::<4>().ok_or_else(|| malformed("a block's length is cut off"))?;
        let length = u32::from_be_bytes(*length) as usize;
        let packed = behind.get(..length).ok_or_else(|| malformed("a block is cut off"))?;
        block(packed, out)?;
        rest = &behind[length..];
    }
    Ok(())
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        })
    }
}

/// The text is no codec's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a codec is none, gzip, snappy, lz4 or zstd")]
pub struct UnknownCompression;

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Compression::ALL.into_iter().find(|codec| codec.to_string() == name).ok_or(UnknownCompression)
    }
}
