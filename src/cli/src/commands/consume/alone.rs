//! Reads partitions without a group.

use super::printer::{Next, Printer};
use crate::args::ConsumeArgs;
use crate::commands::refused;
use crate::error::CliError;
use crate::time::now;
use std::time::Duration;
use thalweg_client::{Chunk, Client, PartitionReader, ReadError, ReaderConfig, Start};
use thalweg_core::{Offset, PartitionId};

/// How often a wait that may last for ever looks whether the brokers are still there.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A reader that begins where the command line says.
pub async fn reader(client: &Client, args: &ConsumeArgs) -> Result<PartitionReader, CliError> {
    let start = match (args.from_beginning, args.offset, args.time) {
        (true, ..) => Start::Earliest,
        (_, Some(offset), _) if offset < 0 => return Err(CliError::usage("--offset cannot be negative")),
        (_, Some(offset), _) => Start::Offset(Offset(offset)),
        (_, _, Some(time)) => Start::Timestamp(time.resolve(now())),
        _ => Start::Latest,
    };
    let mut reader = client.reader(ReaderConfig::default()).await.map_err(|error| refused(error, None))?;
    for topic in &args.topics {
        for partition in partitions(client, topic, args.partition).await? {
            reader.assign(topic, partition, start).await.map_err(CliError::failed)?;
        }
    }
    Ok(reader)
}

async fn partitions(client: &Client, topic: &str, only: Option<i32>) -> Result<Vec<PartitionId>, CliError> {
    let metadata = client.metadata(topic).await.map_err(|error| refused(error, Some(topic)))?;
    match only {
        Some(partition) => {
            if !metadata.partitions.iter().any(|known| known.partition.get() == partition) {
                let count = metadata.partitions.len();
                let error = CliError::failed(format_args!(
                    "topic {topic} has no partition {partition}; it has {count}"
                ));
                return Err(error.with_hint(format!("see which there are: thalweg topic describe {topic}")));
            }
            Ok(vec![PartitionId(partition)])
        }
        None => Ok(metadata.partitions.iter().map(|known| known.partition).collect()),
    }
}

/// Prints until enough is printed, or nothing came for the time that was given.
pub async fn print(
    reader: &mut PartitionReader,
    printer: &mut Printer,
    idle: Option<Duration>,
) -> Result<(), CliError> {
    if printer.next() == Next::Stop {
        return Ok(());
    }
    let mut scratch = Vec::new();
    loop {
        let ready = tokio::time::timeout(Duration::ZERO, reader.next()).await;
        let chunk = match ready {
            Ok(chunk) => chunk,
            Err(_) => {
                // Nothing is waiting: what was printed must be seen before this waits.
                printer.flush()?;
                match wait(reader, idle).await? {
                    Some(chunk) => chunk,
                    None => return Ok(()),
                }
            }
        };
        let chunk = chunk.map_err(CliError::failed)?;
        if printer.chunk(&chunk, &mut scratch)?.1 == Next::Stop {
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
