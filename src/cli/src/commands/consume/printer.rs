//! How records come out.

use super::offsets;
use crate::args::{ConsumeArgs, Formatter, Global, OutputFormat};
use crate::error::CliError;
use crate::format::{Format, record_json};
use serde_json::json;
use std::io::{self, BufWriter, Write};
use thalweg_client::Chunk;
use thalweg_core::Offset;
use thalweg_core::batch::RecordView;

/// Bytes that are gathered before they go to standard output, unless nothing more is waiting.
const BUFFER: usize = 256 * 1024;

/// Whether more is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Yes.
    More,
    /// As many as were asked for are printed.
    Stop,
}

enum Style {
    Value,
    Json,
    Format(Format),
    Offsets(OutputFormat),
}

/// Prints records to standard output, so many at most.
pub struct Printer {
    out: BufWriter<io::Stdout>,
    style: Style,
    left: Option<u64>,
}

impl Printer {
    /// As the command line says.
    pub fn new(global: &Global, args: &ConsumeArgs) -> Printer {
        let style = match (args.formatter, &args.format, global.output) {
            (Some(Formatter::Offsets), _, output) => Style::Offsets(output),
            (None, Some(format), _) => Style::Format(format.clone()),
            (None, None, OutputFormat::Json) => Style::Json,
            (None, None, OutputFormat::Text) => Style::Value,
        };
        Printer { out: BufWriter::with_capacity(BUFFER, io::stdout()), style, left: args.max_records }
    }

    /// Whether anything is wanted at all.
    pub fn next(&self) -> Next {
        if self.left == Some(0) { Next::Stop } else { Next::More }
    }

    /// Prints a record and counts it.
    pub fn record(&mut self, topic: &str, partition: i32, record: &RecordView<'_>) -> Result<Next, CliError> {
        self.write(topic, partition, record).map_err(CliError::output)?;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
        }
        Ok(self.next())
    }

    /// Prints the records of a chunk, and gives the offset behind the last one that was wanted.
    pub fn chunk(&mut self, chunk: &Chunk, scratch: &mut Vec<u8>) -> Result<(Offset, Next), CliError> {
        let mut records = chunk.records(scratch);
        while let Some(record) = records.next_record() {
            let record = record.map_err(CliError::failed)?;
            let behind = record.offset.advance(1);
            if self.record(&chunk.topic, chunk.partition.get(), &record)? == Next::Stop {
                return Ok((behind, Next::Stop));
            }
        }
        Ok((chunk.next_offset, Next::More))
    }

    /// Everything printed is out.
    pub fn flush(&mut self) -> Result<(), CliError> {
        self.out.flush().map_err(CliError::output)
    }

    fn write(&mut self, topic: &str, partition: i32, record: &RecordView<'_>) -> io::Result<()> {
        match &self.style {
            Style::Value => {
                self.out.write_all(record.value.unwrap_or_default())?;
                self.out.write_all(b"\n")
            }
            Style::Json => {
                let mut value = record_json(partition, record);
                value["topic"] = json!(topic);
                serde_json::to_writer(&mut self.out, &value)?;
                self.out.write_all(b"\n")
            }
            Style::Format(format) => format.write(&mut self.out, topic, partition, record),
            Style::Offsets(output) => {
                let line = match output {
                    OutputFormat::Json => offsets::json(partition, record).to_string(),
                    OutputFormat::Text => offsets::text(record),
                };
                writeln!(self.out, "{line}")
            }
        }
    }
}
