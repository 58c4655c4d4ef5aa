//! How `consume` prints a record: kcat's format strings, and JSON.

use serde_json::{Value, json};
use std::io::{self, Write};
use thalweg_core::batch::RecordView;

/// A parsed format string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Key,
    KeyLength,
    Value,
    ValueLength,
    Headers,
    Timestamp,
}

impl Format {
    /// Parses kcat's `-f`: `%t %p %o %k %K %s %S %h %T %%` and the escapes `\n \r \t \0 \\ \xNN`.
    pub fn parse(text: &str) -> Result<Format, String> {
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            match byte {
                b'%' => {
                    let part = match rest.next() {
                        Some(b'%') => {
                            literal.push(b'%');
                            continue;
                        }
                        Some(b't') => Part::Topic,
                        Some(b'p') => Part::Partition,
                        Some(b'o') => Part::Offset,
                        Some(b'k') => Part::Key,
                        Some(b'K') => Part::KeyLength,
                        Some(b's') => Part::Value,
                        Some(b'S') => Part::ValueLength,
                        Some(b'h') => Part::Headers,
                        Some(b'T') => Part::Timestamp,
                        Some(other) => {
                            return Err(format!(
                                "%{} is not known: use %t %p %o %k %K %s %S %h %T or %%",
                                other as char
                            ));
                        }
                        None => return Err("the format ends in the middle of a % token".to_owned()),
                    };
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal)));
                    }
                    parts.push(part);
                }
                b'\\' => literal.push(match rest.next() {
                    Some(b'n') => b'\n',
                    Some(b'r') => b'\r',
                    Some(b't') => b'\t',
                    Some(b'0') => 0,
                    Some(b'\\') => b'\\',
                    Some(b'x') => {
                        let digits = [rest.next(), rest.next()];
                        let hex: Option<Vec<u8>> = digits.into_iter().collect();
                        hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok())
                            .ok_or_else(|| "\\x needs two hexadecimal digits".to_owned())?
                    }
                    Some(other) => {
                        return Err(format!(
                            "\\{} is not known: use \\n \\r \\t \\0 \\\\ or \\xNN",
                            other as char
                        ));
                    }
                    None => return Err("the format ends in the middle of an escape".to_owned()),
                }),
                other => literal.push(other),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Format(parts))
    }

    /// Writes one record. A null key or value prints nothing, its length is -1.
    pub fn write(
        &self,
        out: &mut impl Write,
        topic: &str,
        partition: i32,
        record: &RecordView<'_>,
    ) -> io::Result<()> {
        let length = |bytes: Option<&[u8]>| bytes.map_or(-1, |b| b.len() as i64);
        for part in &self.0 {
            match part {
                Part::Text(text) => out.write_all(text)?,
                Part::Topic => out.write_all(topic.as_bytes())?,
                Part::Partition => write!(out, "{partition}")?,
                Part::Offset => write!(out, "{}", record.offset)?,
                Part::Key => out.write_all(record.key.unwrap_or_default())?,
                Part::KeyLength => write!(out, "{}", length(record.key))?,
                Part::Value => out.write_all(record.value.unwrap_or_default())?,
                Part::ValueLength => write!(out, "{}", length(record.value))?,
                Part::Timestamp => write!(out, "{}", record.timestamp)?,
                Part::Headers => {
                    for (i, header) in record.headers.iter().enumerate() {
                        if i > 0 {
                            out.write_all(b",")?;
                        }
                        out.write_all(header.key)?;
                        out.write_all(b"=")?;
                        out.write_all(header.value.unwrap_or(b"NULL"))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A record as a JSON object.
pub fn record_json(partition: i32, record: &RecordView<'_>) -> Value {
    let headers: Vec<Value> = record
        .headers
        .iter()
        .map(|header| json!({"key": bytes_json(Some(header.key)), "value": bytes_json(header.value)}))
        .collect();
    json!({
        "partition": partition,
        "offset": record.offset.get(),
        "timestamp": record.timestamp.as_millis(),
        "key": bytes_json(record.key),
        "value": bytes_json(record.value),
        "headers": headers,
    })
}

/// Bytes in JSON: a string when they are UTF-8, `{"base64": …}` when not, null when there are none.
pub fn bytes_json(bytes: Option<&[u8]>) -> Value {
    use base64::Engine;
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => Value::Null,
        Some((_, Ok(text))) => Value::String(text.to_owned()),
        Some((bytes, Err(_))) => json!({"base64": base64::engine::general_purpose::STANDARD.encode(bytes)}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_parse_or_say_why_not() {
        assert_eq!(Format::parse("a%%\\x41\\n").unwrap().0, [Part::Text(b"a%A\n".to_vec())]);
        assert_eq!(Format::parse("%t%p").unwrap().0, [Part::Topic, Part::Partition]);
        for bad in ["%", "%q", "\\", "\\q", "\\x4", "\\xzz"] {
            assert!(Format::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_that_are_not_text_become_base64() {
        assert_eq!(bytes_json(Some("grün".as_bytes())), json!("grün"));
        assert_eq!(bytes_json(Some(b"\xff")), json!({"base64": "/w=="}));
        assert_eq!(bytes_json(None), Value::Null);
    }
}
