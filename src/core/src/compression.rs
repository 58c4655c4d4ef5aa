//! The codecs of a record batch, each with a cap on what it may inflate to.

mod deflate;
mod inflate;
#[cfg(test)]
mod tests;
mod turns;

pub use turns::{FREE_INFLATED_BYTES, MAX_LARGE_INFLATIONS, Turn};

use std::fmt;
use std::io;
use std::str::FromStr;

/// A codec, numbered as in the batch's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// The records as they are.
    #[default]
    None = 0,
    /// gzip (RFC 1952).
    Gzip = 1,
    /// snappy: written in xerial's framing, as Kafka's Java client does; read in that or raw, as librdkafka writes it.
    Snappy = 2,
    /// LZ4 frame format, independent blocks of 64 KiB.
    Lz4 = 3,
    /// Zstandard (RFC 8878) at its default level.
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

    /// The name that configuration and command line use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }

    /// Compresses `input` behind what `out` holds.
    ///
    /// Errors: only what a codec's library may report; memory to memory there is no other.
    pub fn compress(self, input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Compression::None => {
                out.extend_from_slice(input);
                Ok(())
            }
            Compression::Gzip => deflate::gzip(input, out),
            Compression::Snappy => deflate::snappy(input, out),
            Compression::Lz4 => deflate::lz4(input, out),
            Compression::Zstd => deflate::zstd(input, out),
        }
    }

    /// Inflates `input` into `out`, which is cleared first, to at most `limit` bytes.
    ///
    /// Memory grows with what was inflated, never with what the input claims: `out` by doubling, to at most `limit` + 1
    /// bytes, and the codec's own state by at most a zstd window (8 MiB) or two LZ4 blocks (8 MiB). On an error `out`
    /// holds nothing that may be used.
    pub fn inflate(self, input: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), InflateError> {
        out.clear();
        match self {
            Compression::None => {
                if input.len() > limit {
                    return Err(InflateError::TooLarge { limit });
                }
                out.extend_from_slice(input);
                Ok(())
            }
            Compression::Gzip => inflate::gzip(input, out, limit),
            Compression::Snappy => inflate::snappy(input, out, limit),
            Compression::Lz4 => inflate::lz4(input, out, limit),
            Compression::Zstd => inflate::zstd(input, out, limit),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is no codec's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a codec is none, gzip, snappy, lz4 or zstd")]
pub struct UnknownCompression;

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Compression::ALL.into_iter().find(|codec| codec.as_str() == name).ok_or(UnknownCompression)
    }
}
