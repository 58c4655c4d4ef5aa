//! Idempotent producers that write at an even pace with acks=all, and time every record.

use super::times::Times;
use super::{PARTITIONS, TOPIC};
use crate::harness::{Cluster, Reading, reading};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use thalweg_client::{Client, ClientConfig, Producer, ProducerConfig, ProducerRecord};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Producers, each with connections of its own.
const PRODUCERS: usize = 3;
/// Different keys of each.
const KEYS: u64 = 13;
/// Between two records of one producer.
const PACE: Duration = Duration::from_millis(5);
/// Bytes that each record is made longer by.
const PADDING: usize = 200;

/// One record that was acknowledged.
struct Written {
    producer: usize,
    nth: u64,
    partition: i32,
    offset: i64,
    phase: String,
    took: Duration,
}

/// Running producers.
pub struct Load {
    stop: watch::Sender<bool>,
    phase: Arc<Mutex<String>>,
    thread: Option<JoinHandle<Vec<Written>>>,
}

/// All that they wrote.
pub struct Record {
    written: Vec<Written>,
}

impl Load {
    /// Starts them.
    pub fn start(bootstrap: &str) -> Load {
        let stop = watch::Sender::new(false);
        let phase = Arc::new(Mutex::new("before it".to_owned()));
        let endpoints: Vec<String> = bootstrap.split(',').map(str::to_owned).collect();
        let (stopped, told) = (stop.subscribe(), Arc::clone(&phase));
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let producers: Vec<_> = (0..PRODUCERS)
                    .map(|id| {
                        tokio::spawn(produce(id, endpoints.clone(), stopped.clone(), Arc::clone(&told)))
                    })
                    .collect();
                let mut written = Vec::new();
                for producer in producers {
                    match producer.await {
                        Ok(of_one) => written.extend(of_one),
                        Err(why) => std::panic::resume_unwind(why.into_panic()),
                    }
                }
                written
            })
        });
        Load { stop, phase, thread: Some(thread) }
    }

    /// Names what happens from now on, for the times.
    #[track_caller]
    pub fn begin(&mut self, phase: &str) {
        assert!(!self.thread.as_ref().is_some_and(JoinHandle::is_finished), "the producers gave up");
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase.to_owned();
    }

    /// Ends them. Fails if any record was not acknowledged.
    #[track_caller]
    pub fn finish(mut self) -> Record {
        self.stop.send_replace(true);
        let thread = self.thread.take().expect("it is ended once");
        let written = thread.join().unwrap_or_else(|why| std::panic::resume_unwind(why));
        Record { written }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

async fn produce(
    id: usize,
    bootstrap: Vec<String>,
    stopped: watch::Receiver<bool>,
    phase: Arc<Mutex<String>>,
) -> Vec<Written> {
    let client = Client::connect(ClientConfig::new(bootstrap)).await.expect("the cluster is there");
    let config = ProducerConfig { linger: Duration::ZERO, ..ProducerConfig::default() };
    let producer: Producer = client.producer(config).await.expect("a producer");
    let padding = "x".repeat(PADDING);
    let mut deliveries = Vec::new();
    let mut pace = interval(PACE);
    // A record is due at its time even if the one before is late.
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for nth in 0u64.. {
        let due = pace.tick().await;
        if *stopped.borrow() {
            break;
        }
        let (key, value) = (format!("{id}-{}", nth % KEYS), format!("{id}-{nth}-{padding}"));
        let phase = phase.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let record = ProducerRecord::new(TOPIC).key(key.as_bytes()).value(value.as_bytes());
        let delivery =
            producer.send(record).await.unwrap_or_else(|error| panic!("record {id}-{nth}: {error}"));
        deliveries.push(tokio::spawn(async move {
            let metadata = delivery.await.unwrap_or_else(|error| panic!("record {id}-{nth}: {error}"));
            Written {
                producer: id,
                nth,
                partition: metadata.partition.get(),
                offset: metadata.offset.get(),
                phase,
                took: Instant::now() - due,
            }
        }));
    }
    producer.close().await.expect("everything is written");
    let mut written = Vec::new();
    for delivery in deliveries {
        match delivery.await {
            Ok(one) => written.push(one),
            Err(why) => std::panic::resume_unwind(why.into_panic()),
        }
    }
    written
}

/// The whole topic.
#[track_caller]
pub fn read_all(cluster: &Cluster) -> Reading {
    let args = ["consume", TOPIC, "--from-beginning", "--timeout-ms", "3000", "-o", "json"];
    reading(&cluster.cli(&args).run().ok().stdout)
}

impl Record {
    /// How many records were written.
    pub fn count(&self) -> usize {
        self.written.len()
    }

    /// Checks that each is stored once, where it was said to be, and in its producer's order; and nothing else is.
    #[track_caller]
    pub fn check(&self, stored: &Reading) {
        let count: usize = stored.values().map(Vec::len).sum();
        assert_eq!(count, self.written.len(), "records stored and records written");
        let mut last: BTreeMap<(usize, i32), i64> = BTreeMap::new();
        for one in &self.written {
            let (id, nth) = (one.producer, one.nth);
            assert!((0..PARTITIONS.cast_signed()).contains(&one.partition));
            let value = stored[&one.partition].get(usize::try_from(one.offset).expect("its offset is known"));
            let value = value.unwrap_or_else(|| panic!("record {id}-{nth} is lost"));
            assert!(value.starts_with(&format!("{id}-{nth}-")), "record {id}-{nth}: {value} is in its place");
            let before = last.insert((id, one.partition), one.offset);
            assert!(before < Some(one.offset), "record {id}-{nth} is not behind the one before");
        }
    }

    /// How long they took, by phase.
    pub fn times(&self) -> Times {
        Times::of(self.written.iter().map(|one| (one.phase.clone(), one.took)))
    }
}
