//! Why a topic configuration is refused.

use super::catalogue::CATALOGUE;
use super::value::Allowed;
use crate::ErrorCode;

/// How far, in single-character edits, a mistyped key may be from the one that is suggested.
const SUGGESTION_DISTANCE: usize = 4;

/// The longest text of a caller's that is repeated in a message, in characters.
const MAX_ECHO_CHARS: usize = 80;

/// Why a topic configuration is refused: which key, what was given, what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is no such key.
    #[error("there is no topic configuration \"{key}\"{}", hint(.nearest))]
    UnknownKey {
        /// The key as given, shortened.
        key: String,
        /// The key that was probably meant.
        nearest: Option<&'static str>,
    },
    /// The value is not one of those allowed.
    #[error("{key} must be {allowed}, not \"{given}\"")]
    IllegalValue {
        /// The key.
        key: &'static str,
        /// The value as given, shortened.
        given: String,
        /// What the key takes.
        allowed: Allowed,
    },
    /// Two values contradict each other.
    #[error("{key} is {value} but must not be more than {limit_key}, which is {limit}")]
    Conflict {
        /// The key with the greater value.
        key: &'static str,
        /// Its value.
        value: i64,
        /// The key that limits it.
        limit_key: &'static str,
        /// The limit.
        limit: i64,
    },
}

impl ConfigError {
    /// The key that is at fault.
    pub fn key(&self) -> &str {
        match self {
            ConfigError::UnknownKey { key, .. } => key,
            ConfigError::IllegalValue { key, .. } | ConfigError::Conflict { key, .. } => key,
        }
    }

    /// The code for the caller: always [`ErrorCode::InvalidConfig`], which is not to be retried.
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::InvalidConfig
    }

    pub(super) fn unknown(key: &str) -> ConfigError {
        ConfigError::UnknownKey { key: echo(key), nearest: nearest(key) }
    }
}

/// A caller's text, shortened for a message.
pub(super) fn echo(text: &str) -> String {
    match text.char_indices().nth(MAX_ECHO_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn hint(nearest: &Option<&'static str>) -> String {
    match nearest {
        Some(key) => format!("; did you mean \"{key}\"?"),
        None => "; see the topic's configuration for the keys there are".to_owned(),
    }
}

fn nearest(key: &str) -> Option<&'static str> {
    if key.len() > MAX_ECHO_CHARS {
        return None;
    }
    let wanted = key.trim().to_ascii_lowercase().replace(['_', ' '], ".");
    CATALOGUE
        .iter()
        .map(|known| (edits(&wanted, known.name), known.name))
        .min()
        .filter(|(distance, name)| *distance <= SUGGESTION_DISTANCE.min(name.len() / 3))
        .map(|(_, name)| name)
}

/// Levenshtein's distance of two short texts.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replace = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_key_is_answered_with_the_nearest() {
        for (given, meant) in [
            ("retention.sm", Some("retention.ms")),
            ("segment_bytes", Some("segment.bytes")),
            ("Segment.Bytes", Some("segment.bytes")),
            ("min.insync.replica", Some("min.insync.replicas")),
            ("write.cache", Some("write.caching")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(given), meant, "{given}");
        }
        assert_eq!(nearest(&"x".repeat(1 << 20)), None);
    }

    #[test]
    fn a_callers_text_is_repeated_only_in_part() {
        let long = ConfigError::unknown(&"ü".repeat(10_000)).to_string();
        assert!(long.chars().count() < 200, "{long}");
    }
}
