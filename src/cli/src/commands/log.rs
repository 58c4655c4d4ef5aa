//! `thalweg log dump`: looks into a log's files, without a server.

use crate::args::{Global, LogArgs, LogCommand, OutputFormat};
use crate::error::CliError;
use crate::format::{bytes_json, record_json};
use serde_json::{Value, json};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use thalweg_core::batch::{BatchRef, RecordView, TimestampType};
use thalweg_log::dump::{self, BatchEntry, Entry, Report, Severity};
use thalweg_log::storage::OsStorage;

/// Bytes that one compressed batch may inflate to.
const MAX_INFLATED: usize = 256 << 20;
/// Bytes of a key or value that the text form shows.
const MAX_SHOWN: usize = 200;

/// Runs one of its subcommands.
pub fn run(global: &Global, args: LogArgs) -> Result<(), CliError> {
    let LogCommand::Dump { file, records, verify } = args.command;
    let mut out = BufWriter::new(io::stdout().lock());
    let json = global.output == OutputFormat::Json;
    let storage = OsStorage::new();
    // A check alone prints its verdict alone; without a check, or when records are asked for, the entries are printed.
    if records || !verify {
        for entry in dump::open(&storage, &file).map_err(CliError::failed)? {
            let entry = entry.map_err(CliError::failed)?;
            print_entry(&mut out, &entry, records, json)?;
        }
    }
    let verdict = if verify {
        let report = dump::verify(&storage, &file, MAX_INFLATED).map_err(CliError::failed)?;
        print_report(&mut out, &file, &report, json).map_err(CliError::output)?;
        report.severity()
    } else {
        None
    };
    out.flush().map_err(CliError::output)?;
    match verdict {
        Some(Severity::Damage) => Err(CliError::failed(format_args!("{} is damaged", file.display()))),
        Some(Severity::Torn) => Err(CliError::failed(format_args!("{} ends inside a batch", file.display()))
            .with_hint(
                "a crash left it, and the next start cuts it off; or a running broker is just writing it",
            )),
        Some(Severity::Note) | None => Ok(()),
    }
}

fn print_entry(out: &mut impl Write, entry: &Entry, records: bool, json: bool) -> Result<(), CliError> {
    let written = match entry {
        Entry::Batch(batch) => {
            if json {
                writeln!(out, "{}", batch_json(batch))
            } else {
                writeln!(out, "{}", batch_text(batch))
            }
        }
        Entry::Position { offset, position } if json => {
            writeln!(out, "{}", json!({"offset": offset.get(), "position": position}))
        }
        Entry::Position { offset, position } => writeln!(out, "offset: {offset} position: {position}"),
        Entry::Time { timestamp, offset } if json => {
            writeln!(out, "{}", json!({"timestamp": timestamp.as_millis(), "offset": offset.get()}))
        }
        Entry::Time { timestamp, offset } => writeln!(out, "timestamp: {timestamp} offset: {offset}"),
        Entry::Producer(producer) if json => {
            let value = json!({
                "producer_id": producer.producer_id.get(),
                "producer_epoch": producer.producer_epoch.get(),
                "last_sequence": producer.last_sequence.get(),
                "last_offset": producer.last_offset.get(),
                "timestamp": producer.timestamp.as_millis(),
                "current_txn_first_offset": producer.current_txn_first_offset.get(),
            });
            writeln!(out, "{value}")
        }
        Entry::Producer(producer) => writeln!(
            out,
            "producerId: {} producerEpoch: {} lastSequence: {} lastOffset: {} timestamp: {} currentTxnFirstOffset: {}",
            producer.producer_id,
            producer.producer_epoch,
            producer.last_sequence,
            producer.last_offset,
            producer.timestamp,
            producer.current_txn_first_offset
        ),
        Entry::Epoch(epoch) if json => {
            writeln!(out, "{}", json!({"leader_epoch": epoch.epoch.get(), "start_offset": epoch.start.get()}))
        }
        Entry::Epoch(epoch) => writeln!(out, "leaderEpoch: {} startOffset: {}", epoch.epoch, epoch.start),
        Entry::Partition(at) if json => {
            writeln!(out, "{}", json!({"partition": at.partition.to_string(), "offset": at.offset.get()}))
        }
        Entry::Partition(at) => writeln!(out, "partition: {} offset: {}", at.partition, at.offset),
    };
    written.map_err(CliError::output)?;
    match entry {
        Entry::Batch(batch) if records => print_records(out, batch, json),
        _ => Ok(()),
    }
}

fn print_records(out: &mut impl Write, batch: &BatchEntry, json: bool) -> Result<(), CliError> {
    let mut scratch = Vec::new();
    let view = BatchRef { header: batch.header, bytes: &batch.bytes };
    let records = view.records(&mut scratch, MAX_INFLATED).map_err(CliError::failed)?;
    for record in records {
        let record = record.map_err(CliError::failed)?;
        let written = if json {
            let mut value = record_json(0, &record);
            if let Some(object) = value.as_object_mut() {
                object.remove("partition");
            }
            writeln!(out, "{value}")
        } else {
            writeln!(out, "{}", record_text(&record))
        };
        written.map_err(CliError::output)?;
    }
    Ok(())
}

/// One line a batch, with the names that Kafka's own dump tool uses.
fn batch_text(batch: &BatchEntry) -> String {
    let header = &batch.header;
    let codec =
        header.attributes.compression().map_or_else(|error| error.to_string(), |codec| codec.to_string());
    format!(
        "baseOffset: {} lastOffset: {} count: {} baseSequence: {} lastSequence: {} producerId: {} producerEpoch: {} \
         partitionLeaderEpoch: {} isTransactional: {} isControl: {} position: {} {}: {} size: {} magic: 2 \
         compresscodec: {codec} crc: {}",
        header.base_offset,
        header.last_offset(),
        header.record_count,
        header.base_sequence,
        header.last_sequence(),
        header.producer_id,
        header.producer_epoch,
        header.leader_epoch,
        header.attributes.is_transactional(),
        header.attributes.is_control(),
        batch.position,
        timestamp_name(header.attributes.timestamp_type()),
        header.max_timestamp,
        header.size(),
        header.crc,
    )
}

fn batch_json(batch: &BatchEntry) -> Value {
    let header = &batch.header;
    json!({
        "base_offset": header.base_offset.get(),
        "last_offset": header.last_offset().get(),
        "count": header.record_count,
        "base_sequence": header.base_sequence.get(),
        "last_sequence": header.last_sequence().get(),
        "producer_id": header.producer_id.get(),
        "producer_epoch": header.producer_epoch.get(),
        "leader_epoch": header.leader_epoch.get(),
        "is_transactional": header.attributes.is_transactional(),
        "is_control": header.attributes.is_control(),
        "position": batch.position,
        "timestamp_type": timestamp_name(header.attributes.timestamp_type()),
        "max_timestamp": header.max_timestamp.as_millis(),
        "size": header.size(),
        "compression": header.attributes.compression().map_or_else(|error| error.to_string(), |codec| codec.to_string()),
        "crc": header.crc,
    })
}

fn timestamp_name(kind: TimestampType) -> &'static str {
    match kind {
        TimestampType::CreateTime => "CreateTime",
        TimestampType::LogAppendTime => "LogAppendTime",
    }
}

fn record_text(record: &RecordView<'_>) -> String {
    let headers: Vec<String> = record
        .headers
        .iter()
        .map(|header| format!("{}={}", shown(Some(header.key)), shown(header.value)))
        .collect();
    format!(
        "| offset: {} timestamp: {} keySize: {} valueSize: {} headers: [{}] key: {} payload: {}",
        record.offset,
        record.timestamp,
        record.key.map_or(-1, |key| key.len() as i64),
        record.value.map_or(-1, |value| value.len() as i64),
        headers.join(","),
        shown(record.key),
        shown(record.value),
    )
}

/// Bytes for people: what is not printable is escaped, what is long is cut.
fn shown(bytes: Option<&[u8]>) -> String {
    match bytes {
        None => "null".to_owned(),
        Some(bytes) => {
            let cut = &bytes[..bytes.len().min(MAX_SHOWN)];
            let more = if bytes.len() > MAX_SHOWN { "…" } else { "" };
            match std::str::from_utf8(cut) {
                Ok(text) if !text.contains(char::is_control) => format!("{text}{more}"),
                _ => format!("{}{more}", cut.escape_ascii()),
            }
        }
    }
}

fn print_report(out: &mut impl Write, file: &Path, report: &Report, json: bool) -> io::Result<()> {
    if json {
        let findings: Vec<Value> = report
            .findings
            .iter()
            .map(|finding| {
                json!({
                    "position": finding.position,
                    "severity": format!("{:?}", finding.severity()).to_lowercase(),
                    "message": finding.kind.to_string(),
                })
            })
            .collect();
        let value = json!({
            "file": bytes_json(Some(file.as_os_str().as_encoded_bytes())),
            "entries": report.entries,
            "records": report.records,
            "bytes": report.bytes,
            "clean": report.is_clean(),
            "findings": findings,
            "more_findings": report.more_findings,
        });
        return writeln!(out, "{value}");
    }
    let verdict = if report.is_clean() { "clean" } else { "NOT CLEAN" };
    writeln!(
        out,
        "{}: {verdict}: {} entries, {} records, {} bytes",
        file.display(),
        report.entries,
        report.records,
        report.bytes
    )?;
    for finding in &report.findings {
        writeln!(out, "  {finding}")?;
    }
    if report.more_findings > 0 {
        writeln!(out, "  and {} more", report.more_findings)?;
    }
    Ok(())
}
