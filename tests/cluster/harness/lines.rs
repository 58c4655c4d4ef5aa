//! Lines as they are sent and as they come back.

use super::cli::from_workspace;
use super::random::Random;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A line as it was sent: its key, if it has one, and its value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sent {
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
}

/// A record as `consume -f` with [`dump_format`] printed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumed {
    pub partition: i32,
    pub offset: i64,
    pub sent: Sent,
}

/// A format that can be read back whatever bytes are in keys and values: lengths go in front.
pub fn dump_format() -> &'static str {
    "%p %o %K %S\\n%k%s\\n"
}

/// Reads what `consume` printed in [`dump_format`].
#[track_caller]
pub fn consumed(mut output: &[u8]) -> Vec<Consumed> {
    let mut records = Vec::new();
    while !output.is_empty() {
        let end = output.iter().position(|b| *b == b'\n').expect("a line of numbers");
        let numbers: Vec<i64> = std::str::from_utf8(&output[..end])
            .unwrap()
            .split(' ')
            .map(|number| number.parse().expect("a number"))
            .collect();
        let [partition, offset, key_len, value_len] = numbers[..] else {
            panic!("four numbers: {numbers:?}")
        };
        output = &output[end + 1..];
        let (key, rest) = output.split_at(usize::try_from(key_len).unwrap_or(0));
        let (value, rest) = rest.split_at(usize::try_from(value_len).unwrap_or(0));
        output = rest.strip_prefix(b"\n").expect("a newline behind the value");
        let sent = Sent { key: (key_len >= 0).then(|| key.to_vec()), value: value.to_vec() };
        records.push(Consumed { partition: partition.try_into().unwrap(), offset, sent });
    }
    records
}

/// The lines of a file: `\n` ends a line, and the last one may have none.
pub fn split_lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    if lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    lines
}

/// How often each thing occurs: two bags are equal when the multisets are.
pub fn bag<T: std::hash::Hash + Eq>(things: impl IntoIterator<Item = T>) -> HashMap<T, usize> {
    let mut bag = HashMap::new();
    for thing in things {
        *bag.entry(thing).or_insert(0) += 1;
    }
    bag
}

/// Lines in each generated file.
const LINES_PER_FILE: u64 = 1500;

/// The files to send: those of `THALWEG_TEST_LOGS`, or generated ones in `folder`, about 5 MiB that hardly compress, with
/// everything that a careless reader of lines gets wrong.
pub fn log_like_files(folder: &Path) -> Vec<PathBuf> {
    if let Some(files) = std::env::var_os("THALWEG_TEST_LOGS") {
        let files = files.into_string().expect("THALWEG_TEST_LOGS is text");
        return files.split_whitespace().map(|file| from_workspace(Path::new(file))).collect();
    }
    let mut random = Random::new(0x7468_616c_7765_6721);
    let write = |name: &str, bytes: Vec<u8>| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let mut files = Vec::new();

    // CR inside lines and in front of the newline, and repeated keys.
    let mut text = Vec::new();
    for n in 0..LINES_PER_FILE {
        let token = random.hex(160);
        let line = match n % 4 {
            0 => format!("host{} - GET /index.html\r200 {token}\r\n", n % 37),
            1 => format!("host{} \r\r {token}\n", n % 37),
            2 => format!("host{} plain {token}\n", n % 37),
            _ => format!("host{} ends in two CRs {token}\r\r\n", n % 37),
        };
        text.extend_from_slice(line.as_bytes());
    }
    files.push(write("carriage-returns.log", text));

    // Every byte but the newline, so that hardly a line is UTF-8; no newline at the end.
    let mut bytes = Vec::new();
    for n in 0..LINES_PER_FILE {
        bytes.extend_from_slice(format!("user{} ", n % 11).as_bytes());
        bytes.extend((0..random.below(2048)).map(|_| random_byte_of_a_line(&mut random)));
        bytes.push(b'\n');
    }
    bytes.pop();
    files.push(write("binary.log", bytes));

    // Empty lines, lines of spaces, lone CRs and NULs.
    let mut sparse = Vec::new();
    for n in 0..LINES_PER_FILE {
        let line: &[u8] = match n % 6 {
            0 | 1 => b"",
            2 => b"\r",
            3 => b"\0\0 \0",
            4 => b"   ",
            _ => b"key same value every time",
        };
        sparse.extend_from_slice(line);
        sparse.push(b'\n');
    }
    files.push(write("sparse.log", sparse));

    // Lines longer than any buffer that might cut them.
    let mut long = Vec::new();
    for n in 0..24 {
        long.extend_from_slice(format!("long{} ", n % 3).as_bytes());
        long.extend((0..40_000 + random.below(200_000)).map(|_| random_byte_of_a_line(&mut random)));
        long.push(b'\n');
    }
    files.push(write("long-lines.log", long));

    // One key for all: its order is the order of the file.
    let mut counted = Vec::new();
    for n in 0..LINES_PER_FILE {
        counted.extend_from_slice(format!("one {n} {}\n", random.hex(60)).as_bytes());
    }
    files.push(write("one-key.log", counted));
    files
}

fn random_byte_of_a_line(random: &mut Random) -> u8 {
    match random.next() as u8 {
        b'\n' => b'\r',
        byte => byte,
    }
}
