use super::*;
use crate::producer::memory::Memory;
use crate::producer::tracker::Tracker;
use proptest::prelude::*;
use thalweg_core::batch::{BatchIter, ProducerStamp};
use thalweg_core::compression::Compression;

const LINGER: Duration = Duration::from_millis(5);
const BATCH: usize = 400;

struct Fixture {
    queue: Arc<PartitionQueue>,
    memory: Arc<Memory>,
    tracker: Arc<Tracker>,
    start: Instant,
}

impl Fixture {
    fn new() -> Fixture {
        let topic = TopicName::new("t").unwrap();
        let queue = PartitionQueue::new(topic, PartitionId(0));
        Fixture { queue, memory: Memory::new(1 << 20, BATCH), tracker: Arc::default(), start: Instant::now() }
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    fn append(&self, value: &[u8], now: Instant) -> Option<Delivery> {
        let record = ProducerRecord::new("t").value(value);
        let mut state = self.queue.lock();
        if let Some(delivery) = state.append(&record, Timestamp(1), &mut None).ok()? {
            return Some(delivery);
        }
        let batch = BatchState::new(self.queue.topic.clone(), self.queue.partition);
        let size = BATCH.max(value.len() + 100);
        let builder = BatchBuilder::with_buffer(Compression::None, BATCH, self.memory.buffer(size));
        let tracked = self.tracker.track(&batch);
        state.open(builder, batch, self.memory.try_reserve(size)?, tracked, now);
        let delivery = state.append(&record, Timestamp(1), &mut None).ok()?;
        state.close_full(BATCH);
        delivery
    }

    fn drain(&self, now: Instant, quiet: bool) -> Drained<Batch> {
        self.queue.lock().drain(now, LINGER, quiet)
    }
}

fn values(batch: &mut Batch) -> Vec<Vec<u8>> {
    let bytes = batch.encode(ProducerStamp::NONE).unwrap();
    let batch = BatchIter::new(&bytes).next().unwrap().unwrap();
    batch.verify().unwrap();
    let mut scratch = Vec::new();
    batch
        .records(&mut scratch, 1 << 20)
        .unwrap()
        .map(|record| record.unwrap().value.unwrap().to_vec())
        .collect()
}

#[test]
fn a_batch_goes_when_its_linger_has_passed() {
    let fixture = Fixture::new();
    assert!(matches!(fixture.drain(fixture.at(0), true), Drained::Empty));
    fixture.append(b"a", fixture.at(0)).unwrap();
    fixture.append(b"b", fixture.at(3)).unwrap();
    let Drained::Wait(due) = fixture.drain(fixture.at(4), true) else { panic!("too early") };
    assert_eq!(due, fixture.at(5));
    let Drained::Batch(mut batch) = fixture.drain(fixture.at(5), false) else { panic!("its time has come") };
    assert_eq!(values(&mut batch), [b"a", b"b"]);
    assert!(fixture.queue.lock().is_empty());
}

#[test]
fn without_linger_what_is_in_flight_is_waited_for() {
    let fixture = Fixture::new();
    fixture.append(b"a", fixture.at(0)).unwrap();
    let drain = |quiet| fixture.queue.lock().drain(fixture.at(0), Duration::ZERO, quiet);
    assert!(matches!(drain(false), Drained::Busy));
    assert!(matches!(drain(true), Drained::Batch(_)));
}

#[test]
fn an_urgent_batch_goes_at_once_and_takes_records_until_then() {
    let fixture = Fixture::new();
    assert!(!fixture.queue.lock().urge());
    fixture.append(b"a", fixture.at(0)).unwrap();
    assert!(fixture.queue.lock().urge());
    fixture.append(b"b", fixture.at(0)).unwrap();
    let drained = fixture.queue.lock().drain(fixture.at(0), Duration::ZERO, false);
    let Drained::Batch(mut batch) = drained else { panic!("it is urgent") };
    assert_eq!(values(&mut batch), [b"a", b"b"]);
    fixture.append(b"c", fixture.at(0)).unwrap();
    assert!(matches!(fixture.drain(fixture.at(0), true), Drained::Wait(_)), "the next one is not");
}

#[test]
fn the_end_of_the_task_that_has_a_partition_is_seen() {
    let fixture = Fixture::new();
    let backoff = crate::net::Backoff::new(LINGER, LINGER);
    let mut lane = crate::producer::lane::Lane::new(Arc::clone(&fixture.queue), None, backoff);
    let sent = fixture.append(&[1; 300], fixture.at(0)).unwrap();
    let Drained::Batch(batch) = fixture.drain(fixture.at(9), true) else { panic!("its time has come") };
    lane.window.send_new(batch, None);
    let waiting = fixture.append(&[2; 300], fixture.at(0)).unwrap();
    drop(lane);
    for delivery in [sent, waiting] {
        assert!(matches!(delivery.try_outcome(), Some(Err(DeliveryError::SenderGone))));
    }
    assert!(fixture.append(b"b", fixture.at(0)).is_none());
}

#[test]
fn a_full_batch_goes_at_once_and_a_large_record_alone() {
    let fixture = Fixture::new();
    fixture.append(&[1; 200], fixture.at(0)).unwrap();
    fixture.append(&[2; 200], fixture.at(0)).unwrap();
    fixture.append(&[3; 900], fixture.at(0)).unwrap();
    let mut sizes = Vec::new();
    while let Drained::Batch(mut batch) = fixture.drain(fixture.at(0), false) {
        sizes.push(values(&mut batch).iter().map(Vec::len).collect::<Vec<_>>());
    }
    assert_eq!(sizes, [vec![200], vec![200], vec![900]]);
}

#[test]
fn what_is_too_old_is_taken_out_oldest_first() {
    let fixture = Fixture::new();
    let first = fixture.append(&[1; 300], fixture.at(0)).unwrap();
    let second = fixture.append(&[2; 300], fixture.at(10)).unwrap();
    let expired = fixture.queue.lock().expire(fixture.at(20), Duration::from_millis(15));
    assert_eq!(expired.len(), 1);
    drop(expired);
    assert!(matches!(first.try_outcome(), Some(Err(DeliveryError::SenderGone))));
    assert!(second.try_outcome().is_none());
}

#[test]
fn a_closed_queue_fails_what_it_has_and_takes_nothing() {
    let fixture = Fixture::new();
    let delivery = fixture.append(b"a", fixture.at(0)).unwrap();
    fixture.queue.close(&DeliveryError::SenderGone);
    assert!(matches!(delivery.try_outcome(), Some(Err(DeliveryError::SenderGone))));
    assert!(fixture.append(b"b", fixture.at(0)).is_none());
    assert!(fixture.tracker.is_empty(), "nobody waits for it any more");
}

#[test]
fn a_split_batch_keeps_every_record_and_tells_each() {
    let fixture = Fixture::new();
    let deliveries: Vec<Delivery> =
        (0..5).map(|i| fixture.append(&[i; 20], fixture.at(0)).unwrap()).collect();
    let Drained::Batch(mut batch) = fixture.drain(fixture.at(9), true) else { panic!("its time has come") };
    values(&mut batch);
    let [mut left, mut right] = batch.split_if_many().unwrap();
    assert_eq!(values(&mut left), [[0; 20], [1; 20]]);
    assert_eq!(values(&mut right), [[2; 20], [3; 20], [4; 20]]);
    let written = |offset| crate::producer::delivery::Written {
        base_offset: thalweg_core::Offset(offset),
        append_time: None,
    };
    left.delivered(written(10));
    assert!(deliveries[0].try_outcome().is_none(), "the other half has no outcome yet");
    right.delivered(written(40));
    let offsets: Vec<i64> =
        deliveries.iter().map(|delivery| delivery.try_outcome().unwrap().unwrap().offset.get()).collect();
    assert_eq!(offsets, [10, 11, 40, 41, 42]);
    let alone = fixture.append(b"x", fixture.at(0)).unwrap();
    let Drained::Batch(batch) = fixture.drain(fixture.at(9), true) else { panic!("its time has come") };
    drop(batch.split_if_many().expect_err("one record cannot be split"));
    assert!(alone.try_outcome().is_some());
}

#[test]
fn another_stamp_changes_only_the_stamp() {
    let fixture = Fixture::new();
    fixture.append(b"abc", fixture.at(0)).unwrap();
    let Drained::Batch(mut batch) = fixture.drain(fixture.at(9), true) else { panic!("its time has come") };
    let stamp = |sequence| ProducerStamp {
        producer_id: thalweg_core::ProducerId(1),
        producer_epoch: thalweg_core::ProducerEpoch(0),
        base_sequence: thalweg_core::Sequence(sequence),
        transactional: false,
    };
    let first = batch.encode(stamp(3)).unwrap();
    assert_eq!(
        batch.encode(stamp(3)).unwrap().as_ptr(),
        first.as_ptr(),
        "sent again, it is not encoded again"
    );
    let second = batch.encode(stamp(8)).unwrap();
    let sequence = |bytes: &[u8]| thalweg_core::batch::check_crc(bytes).unwrap().base_sequence.get();
    assert_eq!((sequence(&first), sequence(&second)), (3, 8));
    assert_eq!(values(&mut batch), [b"abc"]);
}

proptest! {
    /// Whatever the sizes and the times, records come out once, in order, in batches within the limit.
    #[test]
    fn records_come_out_once_and_in_order(
        steps in proptest::collection::vec((0..600usize, 0..4u64, any::<bool>()), 1..200),
    ) {
        let fixture = Fixture::new();
        let (mut now, mut sent, mut seen) = (0, Vec::new(), Vec::new());
        let mut take = |now: Instant, quiet| {
            while let Drained::Batch(mut batch) = fixture.drain(now, quiet) {
                let values = values(&mut batch);
                let size: usize = values.iter().map(Vec::len).sum();
                assert!(values.len() == 1 || size <= BATCH);
                seen.extend(values);
            }
        };
        for (index, (size, pause, quiet)) in steps.into_iter().enumerate() {
            let value = vec![index as u8; size];
            prop_assert!(fixture.append(&value, fixture.at(now)).is_some());
            sent.push(value);
            now += pause;
            take(fixture.at(now), quiet);
        }
        take(fixture.at(now + 10), true);
        prop_assert_eq!(seen, sent);
        prop_assert!(fixture.tracker.is_empty());
        prop_assert!(fixture.memory.try_reserve(1 << 20).is_some(), "all memory came back");
    }
}

#[test]
fn a_batch_goes_under_the_span_of_its_first_traced_record() {
    let parent = |n: u64| format!("00-0af7651916cd43dd8448eb211c80319c-{n:016x}-01");
    let span = |n| SendSpan::of(crate::trace::parse(&parent(n), "").unwrap());
    let fixture = Fixture::new();
    fixture.append(b"a", fixture.at(0)).unwrap();
    for n in [7, 8] {
        fixture.append(b"b", fixture.at(0)).unwrap();
        fixture.queue.lock().trace(&span(n));
    }
    let Drained::Batch(mut batch) = fixture.drain(fixture.at(5), true) else { panic!("it is due") };
    assert_eq!(batch.trace().unwrap().traceparent, parent(7));
    // Its parts go under the same.
    assert_eq!(values(&mut batch).len(), 3);
    let Ok(halves) = batch.split_if_many() else { panic!("three records can be parted") };
    assert!(halves.iter().all(|half| half.trace().unwrap().traceparent == parent(7)));

    fixture.append(b"c", fixture.at(10)).unwrap();
    let Drained::Batch(batch) = fixture.drain(fixture.at(15), true) else { panic!("it is due") };
    assert_eq!(batch.trace(), None, "the next one is another's");
}
