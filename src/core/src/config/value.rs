//! The values a configuration key can have: their kinds, bounds, units and text forms.

use super::error::{ConfigError, echo};
use std::fmt;

/// What a key's number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Not a quantity.
    None,
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Milliseconds,
    /// Records.
    Records,
    /// Replicas of a partition.
    Replicas,
    /// A part of the whole, from 0 to 1.
    Ratio,
}

impl Unit {
    /// The unit's short name; empty for [`Unit::None`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Unit::None => "",
            Unit::Bytes => "bytes",
            Unit::Milliseconds => "ms",
            Unit::Records => "records",
            Unit::Replicas => "replicas",
            Unit::Ratio => "ratio",
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A whole number within bounds, both included.
    Int {
        /// The smallest.
        min: i64,
        /// The largest.
        max: i64,
        /// What `-1` means, where it has a meaning of its own. It then is allowed beside the range.
        minus_one: Option<&'static str>,
    },
    /// A number from 0 to 1.
    Ratio,
    /// `true` or `false`.
    Bool,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// `cleanup.policy`: a list of `compact` and `delete`, at least one of them.
    CleanupPolicy,
}

/// What a key takes, in words for a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed(String);

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A checked value. Its [`fmt::Display`] is the one text form that is stored and shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    Int(i64),
    Ratio(f64),
    Bool(bool),
    Word(&'static str),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Int(number) => number.fmt(f),
            Value::Ratio(number) => number.fmt(f),
            Value::Bool(flag) => flag.fmt(f),
            Value::Word(word) => f.write_str(word),
        }
    }
}

/// The longest value that is looked at, in bytes.
pub const MAX_VALUE_LEN: usize = 1024;

impl Kind {
    /// What the key takes, as the end of a sentence.
    pub fn allowed(self, unit: Unit) -> Allowed {
        Allowed(match self {
            Kind::Int { min, max, minus_one } => {
                let what = match unit {
                    Unit::None | Unit::Ratio => "a whole number".to_owned(),
                    Unit::Milliseconds => "a whole number of milliseconds".to_owned(),
                    unit => format!("a whole number of {unit}"),
                };
                let range = match max {
                    i64::MAX => format!("{what}, {min} or more"),
                    max => format!("{what} from {min} to {max}"),
                };
                match minus_one {
                    Some(meaning) => format!("{range}, or -1 for {meaning}"),
                    None => range,
                }
            }
            Kind::Ratio => "a number from 0 to 1".to_owned(),
            Kind::Bool => "\"true\" or \"false\"".to_owned(),
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
            Kind::CleanupPolicy => "a list of compact, delete".to_owned(),
        })
    }

    /// Reads a value for `key`. Space around it is ignored, as in Kafka.
    pub(super) fn parse(self, key: &'static str, unit: Unit, given: &str) -> Result<Value, ConfigError> {
        let text = if given.len() <= MAX_VALUE_LEN { given.trim() } else { "" };
        let value = match self {
            Kind::Int { min, max, minus_one } => text
                .parse()
                .ok()
                .filter(|number| (min..=max).contains(number) || (*number == -1 && minus_one.is_some()))
                .map(Value::Int),
            Kind::Ratio => {
                text.parse().ok().filter(|number| (0.0..=1.0).contains(number)).map(|number: f64| {
                    // `-0` lies in the range and would be stored as "-0".
                    Value::Ratio(number.abs())
                })
            }
            Kind::Bool if text.eq_ignore_ascii_case("true") => Some(Value::Bool(true)),
            Kind::Bool if text.eq_ignore_ascii_case("false") => Some(Value::Bool(false)),
            Kind::Bool => None,
            Kind::Choice(words) => words.iter().find(|word| **word == text).map(|word| Value::Word(word)),
            Kind::CleanupPolicy => cleanup_policy(text),
        };
        value.ok_or_else(|| ConfigError::IllegalValue {
            key,
            given: echo(given),
            allowed: self.allowed(unit),
        })
    }
}

/// The policy in its one text form: no word twice, `compact` first.
fn cleanup_policy(text: &str) -> Option<Value> {
    let (mut compact, mut delete) = (false, false);
    for word in text.split(',') {
        match word.trim() {
            "compact" => compact = true,
            "delete" => delete = true,
            _ => return None,
        }
    }
    Some(Value::Word(match (compact, delete) {
        (true, true) => "compact,delete",
        (true, false) => "compact",
        (false, _) => "delete",
    }))
}
