//! Readers: they begin anywhere, read on for a while, and begin elsewhere.

use super::{connect, decode};
use crate::board::{Board, Phase, number, partitions};
use crate::checker::{Poll, Process, Watermark};
use std::rc::Rc;
use std::time::Duration;
use thalweg_client::{Chunk, Client, PartitionReader, ReaderConfig, Start};
use thalweg_core::{Offset, PartitionId};
use tokio::time::{Instant, sleep, timeout};

/// Reads until the run says that it is time to finish.
pub async fn read(board: Rc<Board>, bootstrap: Vec<String>) {
    let mut dice = board.dice();
    board.reached(Phase::Faults).await;
    let client = connect(&bootstrap).await;
    let mut session = 0;
    while board.phase() < Phase::Finish {
        let process = board.process();
        let Ok(mut reader) = client.reader(ReaderConfig::default()).await else { return };
        for _ in 0..dice.between(1, 3) {
            session += 1;
            let all: Vec<_> = partitions().collect();
            let chosen = dice.between(1, all.len() as u64) as usize;
            for (_, topic, index) in &all[..chosen] {
                let start = match dice.below(3) {
                    0 => Start::Earliest,
                    1 => Start::Latest,
                    _ => known_offset(&board, topic, *index, dice.next()),
                };
                if let Err(error) = reader.assign(topic, PartitionId(*index), start).await {
                    tracing::info!(target: "thalweg_simulation", %error, "not assigned");
                }
            }
            for (_, topic, index) in &all[chosen..] {
                let _ = reader.unassign(topic, PartitionId(*index)).await;
            }
            let end = Instant::now() + dice.time(Duration::from_secs(5), Duration::from_secs(40));
            poll_until(&board, &mut reader, process, session, end).await;
        }
    }
}

/// Some offset that the history knows to be there, so that readers also begin in the middle.
fn known_offset(board: &Board, topic: &str, index: i32, random: u64) -> Start {
    let partition = number(topic, index);
    let history = board.history.borrow();
    let last = history.polls.iter().rev().find(|poll| Some(poll.partition) == partition);
    match last.and_then(|poll| poll.records.last()) {
        Some((offset, _)) => Start::Offset(Offset((random % (*offset as u64 + 1)) as i64)),
        None => Start::Earliest,
    }
}

async fn poll_until(
    board: &Board,
    reader: &mut PartitionReader,
    process: Process,
    session: u32,
    end: Instant,
) {
    while Instant::now() < end && board.phase() < Phase::Finish {
        match timeout(Duration::from_millis(500), reader.next()).await {
            Ok(Ok(chunk)) => note(board, process, session, &chunk),
            Ok(Err(error)) => {
                // That partition waits for a new assign; the others go on.
                tracing::info!(target: "thalweg_simulation", %error, "not read");
            }
            Err(_) => {}
        }
    }
}

/// The records of a chunk.
pub fn records(chunk: &Chunk) -> Vec<(i64, crate::checker::Value)> {
    let mut scratch = Vec::new();
    let mut found = Vec::new();
    let whole = chunk.for_each_record(&mut scratch, |record| {
        found.push((record.offset.get(), decode(record.value)));
    });
    whole.expect("the reader has checked the batches");
    found
}

fn note(board: &Board, process: Process, session: u32, chunk: &Chunk) {
    let Some(partition) = number(&chunk.topic, chunk.partition.get()) else { return };
    let (at, records) = (board.now(), records(chunk));
    board.history.borrow_mut().polls.push(Poll { process, session, partition, at, records });
}

/// Asks for the ends of all partitions again and again.
pub async fn ask_ends(board: Rc<Board>, bootstrap: Vec<String>) {
    let mut dice = board.dice();
    board.reached(Phase::Faults).await;
    let client = connect(&bootstrap).await;
    let process = board.process();
    while board.phase() < Phase::Finish {
        for (partition, topic, index) in partitions() {
            ask(&board, &client, process, partition, topic, index).await;
        }
        sleep(dice.time(Duration::from_millis(200), Duration::from_secs(3))).await;
    }
}

async fn ask(
    board: &Board,
    client: &Client,
    process: Process,
    partition: crate::checker::Partition,
    topic: &str,
    index: i32,
) {
    let asked = board.now();
    let admin = client.admin();
    let answer = admin.offset_of(topic, PartitionId(index), Start::Latest);
    match timeout(Duration::from_secs(5), answer).await {
        Ok(Ok(offset)) => {
            let (at, offset) = (board.now(), offset.get());
            board.history.borrow_mut().watermarks.push(Watermark { process, partition, asked, at, offset });
        }
        Ok(Err(error)) => tracing::debug!(target: "thalweg_simulation", %error, "no end told"),
        Err(_) => {}
    }
}
