//! Points in time on the command line.

use std::str::FromStr;
use thalweg_core::Timestamp;

/// A time as a user names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// A fixed time.
    At(Timestamp),
    /// So many milliseconds ago.
    Ago(i64),
}

impl Moment {
    /// The time that is meant, given the present one.
    pub fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Moment::At(at) => at,
            Moment::Ago(millis) => now.saturating_add_millis(-millis),
        }
    }
}

/// The present time.
pub fn now() -> Timestamp {
    Timestamp(thalweg_runtime::SystemClock.now_millis())
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = || {
            format!(
                "{text:?} is no time: give milliseconds since 1970, RFC 3339 (2026-01-31T12:00:00Z), or -10m for ten minutes ago"
            )
        };
        if let Some(ago) = text.strip_prefix('-') {
            return duration_millis(ago).map(Moment::Ago).ok_or_else(expected);
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return text.parse().map(|millis| Moment::At(Timestamp(millis))).map_err(|_| expected());
        }
        rfc3339_millis(text).map(|millis| Moment::At(Timestamp(millis))).ok_or_else(expected)
    }
}

/// `500ms`, `10s`, `5m`, `2h`, `7d` in milliseconds.
fn duration_millis(text: &str) -> Option<i64> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let unit = match &text[end..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    text[..end].parse::<i64>().ok()?.checked_mul(unit)
}

/// RFC 3339 with `Z` or an offset; a missing time of day is midnight.
fn rfc3339_millis(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let part = text.get(range)?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())?
    };
    let byte = |at: usize| text.as_bytes().get(at).copied();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let valid_date = byte(4)? == b'-'
        && byte(7)? == b'-'
        && (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day);
    if !valid_date || !text.is_ascii() {
        return None;
    }
    let mut millis = days_from_civil(year, month, day) * 86_400_000;
    if text.len() == 10 {
        return Some(millis);
    }
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let separators = matches!(byte(10)?, b'T' | b't' | b' ') && byte(13)? == b':' && byte(16)? == b':';
    if !separators || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    millis += ((hour * 60 + minute) * 60 + second) * 1_000;
    let mut rest = &text[19..];
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return None;
        }
        let padded = format!("{:0<3}", &fraction[..digits]);
        millis += padded[..3].parse::<i64>().ok()?;
        rest = &fraction[digits..];
    }
    match rest.as_bytes() {
        [b'Z' | b'z'] => Some(millis),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let digit = |b: &u8| b.is_ascii_digit().then(|| i64::from(b - b'0'));
            let offset = ((digit(h1)? * 10 + digit(h2)?) * 60 + digit(m1)? * 10 + digit(m2)?) * 60_000;
            Some(if *sign == b'+' { millis - offset } else { millis + offset })
        }
        _ => None,
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar (Howard Hinnant's algorithm).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_each_form() {
        let at = |millis| Ok(Moment::At(Timestamp(millis)));
        assert_eq!("1700000000000".parse(), at(1_700_000_000_000));
        assert_eq!("1970-01-01".parse(), at(0));
        assert_eq!("2000-02-29T12:30:15Z".parse(), at(951_827_415_000));
        assert_eq!("2000-02-29T14:30:15.25+02:00".parse(), at(951_827_415_250));
        assert_eq!("-10m".parse(), Ok::<_, String>(Moment::Ago(600_000)));
        for bad in [
            "",
            "yesterday",
            "2026-02-30",
            "2026-13-01",
            "2026-01-01T25:00:00Z",
            "2026-01-01T00:00:00",
            "-10",
            "99999999999999999999",
        ] {
            assert!(bad.parse::<Moment>().is_err(), "{bad}");
        }
    }
}
