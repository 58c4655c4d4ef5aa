//! Reads environment variables one by one, and notes what is wrong with them: each once, however often it is asked for.

use std::fmt;
use std::ops::RangeInclusive;

/// A variable whose value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Its name.
    pub variable: String,
    /// What it says; a part of it where the whole may be secret.
    pub value: String,
    /// What it may say.
    pub expected: String,
    /// What happens instead.
    pub used: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Warning { variable, value, expected, used } = self;
        write!(f, "{variable}={value:?} cannot be used: expected {expected}; {used} instead")
    }
}

/// The environment, and what was found wrong in it.
pub(super) struct Variables<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    warnings: Vec<Warning>,
}

impl<'a> Variables<'a> {
    pub(super) fn new(get: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { get, warnings: Vec::new() }
    }

    /// What was wrong, in the order in which it was found.
    pub(super) fn into_warnings(self) -> Vec<Warning> {
        self.warnings
    }

    /// A variable's value without the space around it. Empty is the same as not set, as OpenTelemetry wants it.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        (self.get)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// The first of the variables that is set, with its name: the one of a signal wins over the one of all signals.
    pub(super) fn first<'n>(&self, names: [&'n str; 2]) -> Option<(&'n str, String)> {
        names.into_iter().find_map(|name| Some((name, self.text(name)?)))
    }

    /// Notes that a value cannot be used.
    pub(super) fn warn(&mut self, variable: &str, value: &str, expected: &str, used: &str) {
        if self.warnings.iter().all(|warning| warning.variable != variable) {
            self.warnings.push(Warning {
                variable: variable.to_owned(),
                value: value.to_owned(),
                expected: expected.to_owned(),
                used: used.to_owned(),
            });
        }
    }

    /// One of some words, in any case; `None` if it is not set or none of them. `used` says what then happens.
    pub(super) fn word(
        &mut self,
        names: [&str; 2],
        words: &[&'static str],
        used: &str,
    ) -> Option<&'static str> {
        let (name, value) = self.first(names)?;
        let word = words.iter().find(|word| word.eq_ignore_ascii_case(&value)).copied();
        if word.is_none() {
            self.warn(name, &value, &words.join(" or "), used);
        }
        word
    }

    /// A whole number within bounds.
    pub(super) fn number(&mut self, names: [&str; 2], default: u64, bounds: RangeInclusive<u64>) -> u64 {
        let Some((name, value)) = self.first(names) else { return default };
        match value.parse() {
            Ok(number) if bounds.contains(&number) => number,
            _ => {
                let expected = format!("a whole number from {} to {}", bounds.start(), bounds.end());
                self.warn(name, &value, &expected, &default.to_string());
                default
            }
        }
    }

    /// A share between 0 and 1.
    pub(super) fn share(&mut self, name: &str, default: f64) -> f64 {
        let Some(value) = self.text(name) else { return default };
        match value.parse() {
            Ok(share) if (0.0..=1.0).contains(&share) => share,
            _ => {
                self.warn(name, &value, "a number from 0 to 1", &default.to_string());
                default
            }
        }
    }
}

/// `name=value` pairs with commas between them, values percent-encoded. `Err` has a pair's name, or its number, that is none.
pub(super) fn pairs(text: &str) -> (Vec<(String, String)>, Option<String>) {
    let mut wrong = None;
    let mut pairs = Vec::new();
    for (index, pair) in text.split(',').map(str::trim).enumerate().filter(|(_, pair)| !pair.is_empty()) {
        let read = pair.split_once('=').and_then(|(name, value)| {
            let name = name.trim();
            (!name.is_empty()).then_some(())?;
            Some((name.to_owned(), percent_decoded(value.trim())?))
        });
        match read {
            Some(pair) => pairs.push(pair),
            None => {
                wrong.get_or_insert(format!("entry {}", index + 1));
            }
        }
    }
    (pairs, wrong)
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        // `from_str_radix` would take a sign too.
        bytes.push(
            digits
                .bytes()
                .all(|digit| digit.is_ascii_hexdigit())
                .then(|| u8::from_str_radix(digits, 16).ok())??,
        );
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded_and_the_first_wrong_one_is_named() {
        let of = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(pairs(" a = b%20c,,d=e=f ,g="), (of(&[("a", "b c"), ("d", "e=f"), ("g", "")]), None));
        assert_eq!(pairs("a=b,=c,d"), (of(&[("a", "b")]), Some("entry 2".to_owned())));
        for wrong in ["a=%", "a=%1", "a=%+1", "a=%ff", "a=%zz"] {
            assert_eq!(pairs(wrong), (Vec::new(), Some("entry 1".to_owned())), "{wrong}");
        }
    }
}
