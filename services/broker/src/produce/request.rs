//! A produce request, checked as far as that needs no topic.

use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_core::compression::Compression;
use thalweg_proto::{ApiError, v1};

/// How long acks are waited for when the request does not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest wait a request may ask for, in milliseconds.
pub const MAX_TIMEOUT_MS: u32 = 600_000;

/// What must hold before a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// Nothing.
    None,
    /// The leader has appended.
    Leader,
    /// Every replica in sync has it.
    All,
}

/// The parts of a request that are the same for both payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// What must hold before the answer.
    pub acks: Acks,
    /// How long to wait for it.
    pub timeout: Duration,
    /// The codec for plain records.
    pub compression: Compression,
}

impl Terms {
    /// Reads and checks them. Errors name the field.
    pub fn of(request: &v1::ProduceRequest) -> Result<Terms, ApiError> {
        if request.topic.is_empty() {
            return Err(ApiError::invalid("topic", "name the topic to write to"));
        }
        if request.timeout_ms > MAX_TIMEOUT_MS {
            return Err(ApiError::invalid(
                "timeout_ms",
                format!("at most {MAX_TIMEOUT_MS} ms may be waited"),
            ));
        }
        if v1::Routing::try_from(request.routing).is_err() {
            return Err(ApiError::invalid("routing", format!("{} is no routing", request.routing)));
        }
        Ok(Terms {
            acks: acks(request.acks)?,
            timeout: match request.timeout_ms {
                0 => DEFAULT_TIMEOUT,
                ms => Duration::from_millis(ms.into()),
            },
            compression: compression(request.compression)?,
        })
    }
}

fn acks(number: i32) -> Result<Acks, ApiError> {
    match v1::Acks::try_from(number) {
        Ok(v1::Acks::Unspecified | v1::Acks::All) => Ok(Acks::All),
        Ok(v1::Acks::Leader) => Ok(Acks::Leader),
        Ok(v1::Acks::None) => Ok(Acks::None),
        Err(_) => Err(ApiError::invalid("acks", format!("{number} is no acks: 1 none, 2 leader, 3 all"))),
    }
}

fn compression(number: i32) -> Result<Compression, ApiError> {
    match v1::Compression::try_from(number) {
        Ok(v1::Compression::Unspecified | v1::Compression::None) => Ok(Compression::None),
        Ok(v1::Compression::Gzip) => Ok(Compression::Gzip),
        Ok(v1::Compression::Snappy) => Ok(Compression::Snappy),
        Ok(v1::Compression::Lz4) => Ok(Compression::Lz4),
        Ok(v1::Compression::Zstd) => Ok(Compression::Zstd),
        Err(_) => Err(ApiError::new(
            ErrorCode::UnsupportedCompression,
            format!("compression {number} is not known"),
        )
        .with_field("compression")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_safe_ones() {
        let request = v1::ProduceRequest { topic: "t".into(), ..Default::default() };
        let terms = Terms::of(&request).unwrap();
        assert_eq!(
            (terms.acks, terms.timeout, terms.compression),
            (Acks::All, DEFAULT_TIMEOUT, Compression::None)
        );
    }

    #[test]
    fn each_bad_field_is_named() {
        let good = v1::ProduceRequest { topic: "t".into(), ..Default::default() };
        let field = |change: &dyn Fn(&mut v1::ProduceRequest)| {
            let mut request = good.clone();
            change(&mut request);
            Terms::of(&request).unwrap_err().field.unwrap()
        };
        assert_eq!(field(&|r| r.topic.clear()), "topic");
        assert_eq!(field(&|r| r.acks = 9), "acks");
        assert_eq!(field(&|r| r.timeout_ms = 600_001), "timeout_ms");
        assert_eq!(field(&|r| r.compression = 9), "compression");
        assert_eq!(field(&|r| r.routing = 9), "routing");
    }
}
