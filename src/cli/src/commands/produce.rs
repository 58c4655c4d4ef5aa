//! `thalweg produce`: a record for each line.

use super::{callers_span, connect, refused};
use crate::args::{Global, OutputFormat, ProduceArgs};
use crate::error::CliError;
use crate::lines::LineCutter;
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thalweg_client::trace::opentelemetry::trace::FutureExt;
use thalweg_client::{DeliveryError, Header, Producer, ProducerConfig, ProducerRecord, RecordMetadata};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks that may wait between the reader and the producer.
const CHUNK_QUEUE: usize = 4;
/// Records with `-o json` whose acknowledgement is not printed yet; beyond it no more are sent.
const PRINT_QUEUE: usize = 64 * 1024;

/// Runs the command.
pub async fn run(global: &Global, args: ProduceArgs) -> Result<(), CliError> {
    produce(global, args).with_context(callers_span()).await
}

async fn produce(global: &Global, args: ProduceArgs) -> Result<(), CliError> {
    let client = connect(global).await?;
    let config = ProducerConfig {
        acks: args.acks,
        compression: args.compression,
        linger: Duration::from_millis(args.linger_ms),
        batch_size: args.batch_size,
        delivery_timeout: Duration::from_millis(args.delivery_timeout_ms),
        max_request_size: args.max_request_size,
        ..ProducerConfig::default()
    };
    // One request may not take longer than the record it carries may wait.
    let left = config.delivery_timeout.saturating_sub(config.linger);
    let config = ProducerConfig { request_timeout: config.request_timeout.min(left), ..config };
    // A topic that does not exist is told before any input is read.
    client.metadata(&args.topic).await.map_err(|error| refused(error, Some(&args.topic)))?;
    let producer = client.producer(config).await.map_err(|error| refused(error, Some(&args.topic)))?;
    let results = Arc::new(Results::default());
    let printer = (global.output == OutputFormat::Json).then(Printer::start);
    let progress = progress_bar(&args.files);

    let sent = send_all(&producer, &args, &results, printer.as_ref(), &progress).await;
    let closed = producer.close().await;
    progress.finish_and_clear();
    if let Some(printer) = printer {
        printer.finish().await?;
    }
    if let Some(first) = results.take_failure() {
        let delivered = results.delivered.load(Ordering::Relaxed);
        let hint = first.code().and_then(|code| CliError::hint_for(code, Some(&args.topic)));
        let error = CliError::failed(format_args!(
            "{first} ({delivered} records were written, {} were not)",
            results.failed()
        ));
        return Err(match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        });
    }
    sent?;
    closed.map_err(CliError::failed)?;
    if global.output == OutputFormat::Text && io::stderr().is_terminal() {
        eprintln!("{} records written to {}", results.delivered.load(Ordering::Relaxed), args.topic);
    }
    Ok(())
}

async fn send_all(
    producer: &Producer,
    args: &ProduceArgs,
    results: &Arc<Results>,
    printer: Option<&Printer>,
    progress: &ProgressBar,
) -> Result<(), CliError> {
    let headers: Vec<Header<'_>> = args
        .headers
        .iter()
        .map(|(key, value)| Header { key: key.as_bytes(), value: Some(value.as_bytes()) })
        .collect();
    let mut chunks = read_chunks(&args.files)?;
    let mut cutter = LineCutter::default();
    let mut lines = Vec::new();
    while let Some(input) = chunks.recv().await {
        let input = input?;
        progress.inc(input.bytes.len() as u64);
        lines.clear();
        // Sending may wait, cutting may not: note where the lines are, then send them.
        let Ok(()) = cutter.push::<std::convert::Infallible>(&input.bytes, |line| {
            lines.push(line.to_vec());
            Ok(())
        });
        if cutter.pending() > args.max_request_size {
            let limit = args.max_request_size;
            let error = CliError::failed(format_args!("a line is longer than {limit} bytes"));
            return Err(error.with_hint("raise --max-request-size, and the topic's max.message.bytes"));
        }
        if input.end_of_file {
            lines.extend(std::mem::take(&mut cutter).finish());
        }
        for line in &lines {
            let (key, value) = split_key(line, args.key_separator.as_deref());
            let record = ProducerRecord {
                topic: &args.topic,
                partition: args.partition,
                key,
                value: Some(value),
                headers: &headers,
                timestamp: None,
            };
            let noted = Arc::clone(results);
            let ticket = match printer {
                Some(printer) => match printer.ticket().await {
                    Some(ticket) => Some(ticket),
                    // Nobody reads any more; the printer's own error says so.
                    None => return Ok(()),
                },
                None => None,
            };
            let sent = producer
                .send_with(record, move |outcome| {
                    if let (Ok(metadata), Some(ticket)) = (&outcome, ticket) {
                        ticket.print(metadata);
                    }
                    noted.record(outcome);
                })
                .await;
            if let Err(error) = sent {
                // A failure that was seen first says more than the producer's refusal that followed from it.
                if results.failed() > 0 {
                    return Ok(());
                }
                let hint = error.code().and_then(|code| CliError::hint_for(code, Some(&args.topic)));
                let error = CliError::failed(error);
                return Err(match hint {
                    Some(hint) => error.with_hint(hint),
                    None => error,
                });
            }
            if results.failed() > 0 {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn split_key<'a>(line: &'a [u8], separator: Option<&str>) -> (Option<&'a [u8]>, &'a [u8]) {
    let Some(separator) = separator.map(str::as_bytes).filter(|separator| !separator.is_empty()) else {
        return (None, line);
    };
    match line.windows(separator.len()).position(|window| window == separator) {
        Some(at) => (Some(&line[..at]), &line[at + separator.len()..]),
        None => (None, line),
    }
}

// === input ===

struct Chunk {
    bytes: Vec<u8>,
    /// The file ends here, so that its last line is whole even without `\n`.
    end_of_file: bool,
}

/// Reads the files on a thread of its own, because a read of standard input can wait for ever.
fn read_chunks(files: &[PathBuf]) -> Result<mpsc::Receiver<Result<Chunk, CliError>>, CliError> {
    let stdin = vec![PathBuf::from("-")];
    let files = if files.is_empty() { stdin } else { files.to_vec() };
    // Missing files are told before anything is sent.
    for file in files.iter().filter(|file| !is_stdin(file)) {
        open(file)?;
    }
    let (sender, receiver) = mpsc::channel(CHUNK_QUEUE);
    let read = move || {
        for file in &files {
            if let Err(error) = read_file(file, &sender) {
                // The receiver is gone only when the command is ending anyway.
                drop(sender.blocking_send(Err(error)));
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("input".to_owned())
        .spawn(read)
        .map_err(|error| CliError::failed(format_args!("cannot start the input thread: {error}")))?;
    Ok(receiver)
}

fn read_file(path: &Path, sender: &mpsc::Sender<Result<Chunk, CliError>>) -> Result<(), CliError> {
    let mut input: Box<dyn Read> =
        if is_stdin(path) { Box::new(io::stdin().lock()) } else { Box::new(open(path)?) };
    loop {
        let mut bytes = vec![0; CHUNK_BYTES];
        let read = match input.read(&mut bytes) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(CliError::failed(format_args!("cannot read {}: {error}", path.display())));
            }
        };
        bytes.truncate(read);
        if sender.blocking_send(Ok(Chunk { bytes, end_of_file: read == 0 })).is_err() || read == 0 {
            return Ok(());
        }
    }
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn open(path: &Path) -> Result<File, CliError> {
    let failed = |error: io::Error| CliError::failed(format_args!("cannot read {}: {error}", path.display()));
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(CliError::failed(format_args!("cannot read {}: it is a folder", path.display())));
    }
    Ok(file)
}

fn progress_bar(files: &[PathBuf]) -> ProgressBar {
    let sizes: Option<u64> =
        files.iter().map(|file| std::fs::metadata(file).ok().map(|meta| meta.len())).sum();
    let total = sizes.filter(|total| *total > 0 && !files.is_empty());
    match total {
        Some(total) if io::stderr().is_terminal() => {
            let style =
                ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
            let style = style.expect("the template is a constant that parses");
            ProgressBar::new(total).with_style(style)
        }
        _ => ProgressBar::hidden(),
    }
}

// === outcomes ===

#[derive(Default)]
struct Results {
    delivered: AtomicU64,
    failed: AtomicU64,
    first_failure: Mutex<Option<DeliveryError>>,
}

impl Results {
    fn record(&self, outcome: Result<RecordMetadata, DeliveryError>) {
        match outcome {
            Ok(_) => {
                self.delivered.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                let mut first = self.first_failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                first.get_or_insert(error);
                self.failed.fetch_add(1, Ordering::Release);
            }
        }
    }

    fn failed(&self) -> u64 {
        self.failed.load(Ordering::Acquire)
    }

    fn take_failure(&self) -> Option<DeliveryError> {
        self.first_failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}

/// Prints acknowledgements as they come, on a thread, so that a slow terminal does not hold up the connection.
struct Printer {
    // As long as there are tickets.
    sender: mpsc::UnboundedSender<Line>,
    tickets: Arc<Semaphore>,
    done: tokio::task::JoinHandle<io::Result<()>>,
}

/// An acknowledgement to print, and the ticket that it gives back then.
struct Line {
    partition: i32,
    offset: i64,
    _ticket: OwnedSemaphorePermit,
}

/// The right to print one line.
struct Ticket {
    sender: mpsc::UnboundedSender<Line>,
    permit: OwnedSemaphorePermit,
}

impl Ticket {
    fn print(self, metadata: &RecordMetadata) {
        let (partition, offset) = (metadata.partition.get(), metadata.offset.get());
        // The printer is gone only when standard output is: its own error tells.
        let _gone = self.sender.send(Line { partition, offset, _ticket: self.permit });
    }
}

impl Printer {
    fn start() -> Printer {
        let (sender, receiver) = mpsc::unbounded_channel();
        let tickets = Arc::new(Semaphore::new(PRINT_QUEUE));
        let closes = Arc::clone(&tickets);
        let done = tokio::task::spawn_blocking(move || {
            let printed = print_all(receiver);
            closes.close();
            printed
        });
        Printer { sender, tickets, done }
    }

    /// Waits until a line more may wait; none when nobody prints any more.
    async fn ticket(&self) -> Option<Ticket> {
        let permit = Arc::clone(&self.tickets).acquire_owned().await.ok()?;
        Some(Ticket { sender: self.sender.clone(), permit })
    }

    async fn finish(self) -> Result<(), CliError> {
        drop(self.sender);
        match self.done.await {
            Ok(result) => result.map_err(CliError::output),
            Err(_) => Err(CliError::failed("the printer of acknowledgements died")),
        }
    }
}

fn print_all(mut lines: mpsc::UnboundedReceiver<Line>) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    while let Some(mut next) = lines.blocking_recv() {
        loop {
            writeln!(out, "{{\"partition\":{},\"offset\":{}}}", next.partition, next.offset)?;
            match lines.try_recv() {
                Ok(more) => next = more,
                Err(_) => break,
            }
        }
        out.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_at_the_first_separator() {
        assert_eq!(split_key(b"k:v:w", Some(":")), (Some(&b"k"[..]), &b"v:w"[..]));
        assert_eq!(split_key(b"k::v", Some("::")), (Some(&b"k"[..]), &b"v"[..]));
        assert_eq!(split_key(b":v", Some(":")), (Some(&b""[..]), &b"v"[..]));
        assert_eq!(split_key(b"plain", Some(":")), (None, &b"plain"[..]));
        assert_eq!(split_key(b"k:v", None), (None, &b"k:v"[..]));
    }
}
