//! After healing: every partition from its start to its end.

use super::connect;
use super::read::records;
use crate::board::{Board, partitions};
use crate::checker::{Drain, Value};
use std::rc::Rc;
use std::time::Duration;
use thalweg_client::{Client, PartitionReader, ReaderConfig, Start};
use thalweg_core::{Offset, PartitionId};
use tokio::time::{sleep, timeout};

/// How long a partition may take to be read to its end once everything is healed. Generous: it is simulated time.
const PATIENCE: Duration = Duration::from_secs(120);

/// Reads everything. A partition whose end is not reached in time is noted as such.
pub async fn drain(board: Rc<Board>, bootstrap: Vec<String>) {
    let client = connect(&bootstrap).await;
    for (partition, topic, index) in partitions() {
        let mut read = Vec::new();
        let complete =
            timeout(PATIENCE, drain_one(&client, topic, PartitionId(index), &mut read)).await.is_ok();
        board.history.borrow_mut().drains.push(Drain { partition, records: read, complete });
    }
}

async fn drain_one(client: &Client, topic: &str, index: PartitionId, into: &mut Vec<(i64, Value)>) {
    loop {
        into.clear();
        match read_to_end(client, topic, index, into).await {
            Ok(()) => return,
            Err(error) => {
                tracing::info!(target: "thalweg_simulation", topic, %index, error, "drain begins anew");
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn read_to_end(
    client: &Client,
    topic: &str,
    index: PartitionId,
    into: &mut Vec<(i64, Value)>,
) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let end = client.admin().offset_of(topic, index, Start::Latest).await.map_err(|e| text(&e))?;
    let mut reader: PartitionReader = client.reader(ReaderConfig::default()).await.map_err(|e| text(&e))?;
    reader.assign(topic, index, Start::Earliest).await.map_err(|e| text(&e))?;
    let mut next = reader.position(topic, index).unwrap_or(Offset(0));
    while next < end {
        let chunk = timeout(Duration::from_secs(20), reader.next()).await;
        let chunk = chunk.map_err(|_| format!("silence at {next} of {end}"))?.map_err(|e| text(&e))?;
        into.extend(records(&chunk));
        next = chunk.next_offset;
    }
    Ok(())
}
