//! `thalweg consume`: prints records as they come.

use super::{connect, refused};
use crate::args::{ConsumeArgs, Global, OutputFormat};
use crate::error::CliError;
use crate::format::{Format, record_json};
use crate::time::now;
use std::io::{self, BufWriter, Write};
use std::time::Duration;
use thalweg_client::{Chunk, PartitionReader, ReadError, ReaderConfig, Start};
use thalweg_core::batch::RecordView;
use thalweg_core::{Offset, PartitionId};

/// How often a wait that may last for ever looks whether the brokers are still there.
const LOOK_EVERY: Duration = Duration::from_secs(2);

impl ConsumeArgs {
    /// Lets what stands on the command line win over the environment; two starts contradict each other.
    pub fn settle(&mut self, given: &[&str]) -> Result<(), CliError> {
        if given.len() > 1 {
            return Err(CliError::usage(
                "--from-beginning, --offset and --time contradict each other: give one of them",
            ));
        }
        if let Some(given) = given.first() {
            self.from_beginning &= *given == "from_beginning";
            self.offset = self.offset.filter(|_| *given == "offset");
            self.time = self.time.filter(|_| *given == "time");
        }
        Ok(())
    }
}

/// Runs the command.
pub async fn run(global: &Global, args: ConsumeArgs) -> Result<(), CliError> {
    let topic = args.topic.as_str();
    let refuse = |error| refused(error, Some(topic));
    let client = connect(global).await?;
    let metadata = client.metadata(topic).await.map_err(refuse)?;
    let partitions: Vec<PartitionId> = match args.partition {
        Some(partition) => {
            if !metadata.partitions.iter().any(|known| known.partition.get() == partition) {
                let count = metadata.partitions.len();
                let error = CliError::failed(format_args!(
                    "topic {topic} has no partition {partition}; it has {count}"
                ));
                return Err(error.with_hint(format!("see which there are: thalweg topic describe {topic}")));
            }
            vec![PartitionId(partition)]
        }
        None => metadata.partitions.iter().map(|known| known.partition).collect(),
    };
    let start = match (args.from_beginning, args.offset, args.time) {
        (true, ..) => Start::Earliest,
        (_, Some(offset), _) if offset < 0 => return Err(CliError::usage("--offset cannot be negative")),
        (_, Some(offset), _) => Start::Offset(Offset(offset)),
        (_, _, Some(time)) => Start::Timestamp(time.resolve(now())),
        _ => Start::Latest,
    };
    let mut reader = client.reader(ReaderConfig::default()).await.map_err(refuse)?;
    for partition in partitions {
        reader.assign(topic, partition, start).await.map_err(CliError::failed)?;
    }
    let style = match (&args.format, global.output) {
        (Some(format), _) => Style::Format(format.clone()),
        (None, OutputFormat::Json) => Style::Json,
        (None, OutputFormat::Text) => Style::Value,
    };
    let mut printer =
        Printer { out: BufWriter::with_capacity(256 * 1024, io::stdout()), style, left: args.max_records };
    let idle = args.timeout_ms.map(Duration::from_millis);
    tokio::select! {
        printed = print(&mut reader, &mut printer, idle) => printed?,
        _ = tokio::signal::ctrl_c() => {}
    }
    printer.out.flush().map_err(CliError::output)
}

async fn print(
    reader: &mut PartitionReader,
    printer: &mut Printer,
    idle: Option<Duration>,
) -> Result<(), CliError> {
    if printer.left == Some(0) {
        return Ok(());
    }
    let mut scratch = Vec::new();
    loop {
        let ready = tokio::time::timeout(Duration::ZERO, reader.next()).await;
        let chunk = match ready {
            Ok(chunk) => chunk,
            Err(_) => {
                // Nothing is waiting: what was printed must be seen before this waits.
                printer.out.flush().map_err(CliError::output)?;
                match wait(reader, idle).await? {
                    Some(chunk) => chunk,
                    None => return Ok(()),
                }
            }
        };
        let chunk = chunk.map_err(CliError::failed)?;
        if printer.chunk(&chunk, &mut scratch)? == Next::Stop {
            return Ok(());
        }
    }
}

/// Waits for data as long as it may take; none when nothing came for the time that was given. A broker that is gone is no
/// empty topic: then the wait fails, or, when it may last for ever, says so.
async fn wait(
    reader: &mut PartitionReader,
    idle: Option<Duration>,
) -> Result<Option<Result<Chunk, ReadError>>, CliError> {
    if let Some(idle) = idle {
        return match (tokio::time::timeout(idle, reader.next()).await, reader.last_failure()) {
            (Ok(chunk), _) => Ok(Some(chunk)),
            (Err(_), None) => Ok(None),
            (Err(_), Some(why)) => Err(CliError::failed(format_args!("not all was read: {why}"))),
        };
    }
    let mut warned = false;
    loop {
        match tokio::time::timeout(LOOK_EVERY, reader.next()).await {
            Ok(chunk) => return Ok(Some(chunk)),
            Err(_) => match reader.last_failure() {
                Some(why) if !warned => {
                    eprintln!("warning: {why}; trying again until it works");
                    warned = true;
                }
                Some(_) => {}
                None => warned = false,
            },
        }
    }
}

#[derive(PartialEq, Eq)]
enum Next {
    More,
    Stop,
}

enum Style {
    Value,
    Json,
    Format(Format),
}

struct Printer {
    out: BufWriter<io::Stdout>,
    style: Style,
    left: Option<u64>,
}

impl Printer {
    fn chunk(&mut self, chunk: &Chunk, scratch: &mut Vec<u8>) -> Result<Next, CliError> {
        let mut records = chunk.records(scratch);
        while let Some(record) = records.next_record() {
            let record = record.map_err(CliError::failed)?;
            self.record(&chunk.topic, chunk.partition.get(), &record).map_err(CliError::output)?;
            if let Some(left) = &mut self.left {
                *left -= 1;
                if *left == 0 {
                    return Ok(Next::Stop);
                }
            }
        }
        Ok(Next::More)
    }

    fn record(&mut self, topic: &str, partition: i32, record: &RecordView<'_>) -> io::Result<()> {
        match &self.style {
            Style::Value => {
                self.out.write_all(record.value.unwrap_or_default())?;
                self.out.write_all(b"\n")
            }
            Style::Json => {
                serde_json::to_writer(&mut self.out, &record_json(partition, record))?;
                self.out.write_all(b"\n")
            }
            Style::Format(format) => format.write(&mut self.out, topic, partition, record),
        }
    }
}
