//! Values with units, and addresses. Every function here fits a command-line parser's `value_parser`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The most addresses one list may hold.
pub const MAX_HOST_PORTS: usize = 1_000;

/// The longest name of a host (RFC 1035).
const MAX_HOST_LEN: usize = 253;

/// What is wrong with a value, and how to write it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a span of time.
    #[error("`{text}` is not a duration: {reason}; write a whole number with a unit: 500ms, 5s, 2m, 1h, 7d")]
    Duration {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Not a size.
    #[error(
        "`{text}` is not a size: {reason}; write a whole number with a unit: 512, 64KiB, 1MiB, 2GiB, or 10MB for powers of ten"
    )]
    Bytes {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Not an address.
    #[error("`{text}` is not an address: {reason}; write HOST:PORT, as in broker-0:9092 or [::1]:9092")]
    HostPort {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// A host by name or address, and a port. An IPv6 address stands in brackets in text, without them in `host`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// Name, IPv4 or IPv6 address; never empty.
    pub host: String,
    /// TCP port; 0 asks the system for a free one when listening.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostPort {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fail = |reason| ParseError::HostPort { text: text.to_owned(), reason };
        let text = text.trim();
        let (host, port) = text.rsplit_once(':').ok_or_else(|| fail("the port is missing"))?;
        if text.contains("://") || text.contains('/') {
            return Err(fail("a scheme or path does not belong here"));
        }
        let host = if let Some(inner) = host.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or_else(|| fail("the bracket is not closed"))?;
            inner
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| fail("what stands in brackets is not an IPv6 address"))?;
            inner
        } else if host.contains(':') {
            return Err(fail("an IPv6 address needs brackets"));
        } else {
            host
        };
        if host.is_empty() {
            return Err(fail("the host is missing"));
        }
        if host.len() > MAX_HOST_LEN {
            return Err(fail("the host is longer than 253 characters"));
        }
        if !host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':')) {
            return Err(fail("the host holds characters that no host name has"));
        }
        // Digits only: `parse` alone would take a leading plus sign.
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(fail("the port is not a number"));
        }
        let port = port.parse().map_err(|_| fail("the port is over 65535"))?;
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Reads `HOST:PORT[,HOST:PORT...]`: at least one, no repeats, at most [`MAX_HOST_PORTS`].
pub fn parse_host_ports(text: &str) -> Result<Vec<HostPort>, ParseError> {
    let fail = |reason| ParseError::HostPort { text: text.to_owned(), reason };
    let mut found = Vec::new();
    for part in text.split(',') {
        if part.trim().is_empty() {
            return Err(fail("the list has an empty entry"));
        }
        let next: HostPort = part.parse()?;
        if found.contains(&next) {
            return Err(fail("the list names an address twice"));
        }
        if found.len() == MAX_HOST_PORTS {
            return Err(fail("the list is longer than 1000 addresses"));
        }
        found.push(next);
    }
    Ok(found)
}

/// Reads a span of time: a whole number with `ns`, `us`, `ms`, `s`, `m`, `h` or `d`. Only `0` needs no unit.
pub fn parse_duration(text: &str) -> Result<Duration, ParseError> {
    let fail = |reason| ParseError::Duration { text: text.to_owned(), reason };
    let (number, unit) = split_number(text.trim()).map_err(fail)?;
    let seconds = |each: u64| {
        number.checked_mul(each).map(Duration::from_secs).ok_or_else(|| fail("the number is too large"))
    };
    match unit {
        "ns" => Ok(Duration::from_nanos(number)),
        "us" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(60 * 60),
        "d" => seconds(24 * 60 * 60),
        "" if number == 0 => Ok(Duration::ZERO),
        "" => Err(fail("the unit is missing")),
        _ => Err(fail("the unit is unknown")),
    }
}

/// Reads a size in bytes: a whole number, alone or with `B`, `KiB`/`K`, `MiB`/`M`, `GiB`/`G`, `TiB`/`T`
/// (powers of 1024) or `kB`, `MB`, `GB`, `TB` (powers of 1000). Upper and lower case are alike.
pub fn parse_bytes(text: &str) -> Result<u64, ParseError> {
    let fail = |reason| ParseError::Bytes { text: text.to_owned(), reason };
    let (number, unit) = split_number(text.trim()).map_err(fail)?;
    let each: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(fail("the unit is unknown")),
    };
    number.checked_mul(each).ok_or_else(|| fail("the number is too large"))
}

/// Splits `12 ms` into 12 and `ms`.
fn split_number(text: &str) -> Result<(u64, &str), &'static str> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err("it does not begin with a whole number");
    }
    if unit.starts_with(['.', ',']) {
        return Err("fractions are not taken, use a smaller unit");
    }
    let number = number.parse().map_err(|_| "the number is too large")?;
    Ok((number, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, wanted) in [
            ("0", Duration::ZERO),
            ("0s", Duration::ZERO),
            ("7ns", Duration::from_nanos(7)),
            ("250us", Duration::from_micros(250)),
            ("500ms", Duration::from_millis(500)),
            ("5s", Duration::from_secs(5)),
            (" 2 m ", Duration::from_secs(120)),
            ("1h", Duration::from_secs(3_600)),
            ("7d", Duration::from_secs(604_800)),
        ] {
            assert_eq!(parse_duration(text), Ok(wanted), "{text}");
        }
        for (text, reason) in [
            ("", "does not begin"),
            ("ms", "does not begin"),
            ("-1s", "does not begin"),
            ("+1s", "does not begin"),
            ("5", "unit is missing"),
            ("5 parsecs", "unit is unknown"),
            ("5S", "unit is unknown"),
            ("1.5s", "fractions"),
            ("99999999999999999999s", "too large"),
            ("18446744073709551615d", "too large"),
            ("5é", "unit is unknown"),
        ] {
            let error = parse_duration(text).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("500ms"), "{text}: {error}");
        }
    }

    #[test]
    fn sizes() {
        for (text, wanted) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("64k", 65_536),
            ("64KiB", 65_536),
            ("1MiB", 1_048_576),
            ("1 mib", 1_048_576),
            ("2G", 2_147_483_648),
            ("1TiB", 1_099_511_627_776),
            ("10MB", 10_000_000),
            ("10kB", 10_000),
        ] {
            assert_eq!(parse_bytes(text), Ok(wanted), "{text}");
        }
        for (text, reason) in [
            ("", "does not begin"),
            ("MiB", "does not begin"),
            ("-1", "does not begin"),
            ("1.5GiB", "fractions"),
            ("1PiB", "unit is unknown"),
            ("18446744073709551616", "too large"),
            ("16777216TiB", "too large"),
        ] {
            let error = parse_bytes(text).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("64KiB"), "{text}: {error}");
        }
    }

    #[test]
    fn addresses() {
        for (text, host, port) in [
            ("broker-0:9092", "broker-0", 9092),
            ("127.0.0.1:0", "127.0.0.1", 0),
            (" my_host.svc.cluster.local:65535 ", "my_host.svc.cluster.local", 65535),
            ("[::1]:80", "::1", 80),
        ] {
            let parsed: HostPort = text.parse().unwrap();
            assert_eq!((parsed.host.as_str(), parsed.port), (host, port));
            assert_eq!(parsed.to_string(), text.trim());
        }
        for (text, reason) in [
            ("", "port is missing"),
            ("broker", "port is missing"),
            (":9092", "host is missing"),
            ("broker:", "not a number"),
            ("broker:+1", "not a number"),
            ("broker:65536", "over 65535"),
            ("http://broker:1", "scheme"),
            ("::1:9092", "brackets"),
            ("[::1:9092", "not closed"),
            ("[nope]:1", "IPv6"),
            ("a b:1", "characters"),
        ] {
            let error = text.parse::<HostPort>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("HOST:PORT"), "{text}: {error}");
        }
        let long = format!("{}:1", "a".repeat(MAX_HOST_LEN + 1));
        assert!(long.parse::<HostPort>().unwrap_err().to_string().contains("253"));
    }

    #[test]
    fn address_lists() {
        let list = parse_host_ports("a:1, b:2,[::1]:3").unwrap();
        assert_eq!(list.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:1", "b:2", "[::1]:3"]);
        for (text, reason) in [("", "empty"), ("a:1,", "empty"), ("a:1,a:1", "twice"), ("a:1,b", "port")] {
            let error = parse_host_ports(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let many: Vec<_> = (0..=MAX_HOST_PORTS).map(|n| format!("h{n}:1")).collect();
        assert!(parse_host_ports(&many.join(",")).unwrap_err().to_string().contains("longer"));
    }
}
