//! Producers: each lives for a while, sends to all partitions, and is followed by another.

use super::{connect, encode};
use crate::board::{Board, Phase, partitions};
use crate::checker::{Process, Promise};
use crate::dice::Dice;
use std::rc::Rc;
use std::time::Duration;
use thalweg_client::{Acks, Client, Producer, ProducerConfig, ProducerRecord};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How long one record is tried for. Short, so that producers also give up and are replaced.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(25);

/// Produces until the run says that it is time to finish. What a producer promises is drawn anew for each.
pub async fn produce(board: Rc<Board>, bootstrap: Vec<String>) {
    board.working.set(board.working.get() + 1);
    let mut dice = board.dice();
    board.reached(Phase::Faults).await;
    let client = connect(&bootstrap).await;
    while board.phase() < Phase::Finish {
        let promise = if dice.chance(80) { Promise::FULL } else { Promise::NONE };
        let life = dice.time(Duration::from_secs(5), Duration::from_secs(60));
        let ended = one_life(&board, &client, &mut dice, promise, life).await;
        if let Err(error) = ended {
            tracing::info!(target: "thalweg_simulation", error, "no producer");
            sleep(Duration::from_secs(1)).await;
        }
    }
    board.working.set(board.working.get() - 1);
}

async fn one_life(
    board: &Rc<Board>,
    client: &Client,
    dice: &mut Dice,
    promise: Promise,
    life: Duration,
) -> Result<(), String> {
    let config = ProducerConfig {
        acks: if promise.durable { Acks::All } else { Acks::Leader },
        linger: Duration::from_millis(*dice.pick(&[0, 5, 20])),
        batch_size: *dice.pick(&[2 << 10, 16 << 10]),
        request_timeout: Duration::from_secs(8),
        delivery_timeout: DELIVERY_TIMEOUT,
        max_block: Duration::from_secs(5),
        ..ProducerConfig::default()
    };
    let producer = client.producer(config).await.map_err(|error| error.to_string())?;
    let process = board.process();
    let end = Instant::now() + life;
    let mut deliveries = JoinSet::new();
    while Instant::now() < end && board.phase() < Phase::Finish {
        for _ in 0..dice.between(1, 6) {
            send(board, &producer, process, promise, dice, &mut deliveries).await;
        }
        sleep(dice.time(Duration::from_millis(20), Duration::from_millis(600))).await;
        while deliveries.try_join_next().is_some() {}
    }
    // Half of them leave without a word, as a client that is killed does.
    if dice.chance(50) {
        drop(producer);
    } else if let Err(error) = producer.close().await {
        tracing::info!(target: "thalweg_simulation", %error, "producer closed");
    }
    while deliveries.join_next().await.is_some() {}
    Ok(())
}

async fn send(
    board: &Rc<Board>,
    producer: &Producer,
    process: Process,
    promise: Promise,
    dice: &mut Dice,
    deliveries: &mut JoinSet<()>,
) {
    let all: Vec<_> = partitions().collect();
    let (partition, topic, index) = *dice.pick(&all);
    let value = board.value();
    let padding = *dice.pick(&[0, 60, 900]);
    let bytes = encode(value, padding);
    let id = board.history.borrow_mut().invoke(board.now(), process, partition, value, promise);
    let record = ProducerRecord {
        topic,
        partition: Some(index),
        key: None,
        value: Some(&bytes),
        headers: &[],
        timestamp: None,
    };
    match producer.send(record).await {
        Ok(delivery) => {
            let board = Rc::clone(board);
            deliveries.spawn_local(async move {
                match delivery.await {
                    Ok(written) => {
                        let offset = Some(written.offset.get()).filter(|offset| *offset >= 0);
                        board.history.borrow_mut().ok(id, board.now(), offset);
                    }
                    // It may have been written or not: nothing is said.
                    Err(error) => {
                        tracing::info!(target: "thalweg_simulation", value = value.0, %error, "not delivered");
                    }
                }
            });
        }
        // It never left.
        Err(error) => {
            tracing::info!(target: "thalweg_simulation", value = value.0, %error, "not sent");
            board.history.borrow_mut().fail(id, board.now());
        }
    }
}
