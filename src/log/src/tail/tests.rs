use super::*;
use thalweg_core::Timestamp;
use thalweg_core::batch::{BatchBuilder, HEADER_LEN, ProducerStamp};
use thalweg_core::compression::Compression;

/// One batch of one record at `base`, of about `size` bytes.
fn batch(base: i64, size: usize) -> (BatchHeader, Bytes) {
    let mut builder = BatchBuilder::new(Compression::None, 1 << 20);
    builder.append(Timestamp(base), None, Some(&vec![b'x'; size.saturating_sub(80)]), &[]);
    let bytes = builder.finish(ProducerStamp::NONE);
    let mut header = BatchHeader::parse(&bytes).unwrap();
    header.base_offset = Offset(base);
    (header, bytes)
}

fn push(tail: &Tail, base: i64, size: usize) -> Vec<u8> {
    let (header, bytes) = batch(base, size);
    tail.push(&header, &header.encode(), || bytes.slice(HEADER_LEN..));
    [&header.encode()[..], &bytes[HEADER_LEN..]].concat()
}

fn read(tail: &Tail, reader: u64, from: i64) -> Option<(Vec<u8>, i64)> {
    let piece = tail.read(reader, Offset(from), 1 << 20, Offset(i64::MAX))?;
    Some((piece.data.concat(), piece.next_offset.get()))
}

fn tail(max_bytes: usize) -> (Arc<TailBudget>, Tail) {
    let budget = TailBudget::new(max_bytes);
    (Arc::clone(&budget), Tail::new(budget))
}

#[test]
fn batches_are_given_as_they_were_written_and_dropped_when_all_have_them() {
    let (budget, tail) = tail(64 << 20);
    let (a, b) = (tail.enter(Offset(0)), tail.enter(Offset(0)));
    let written: Vec<_> = (0..3).map(|i| push(&tail, i, [200, 40_000, 100_000][i as usize])).collect();
    assert_eq!(read(&tail, a, 0).unwrap(), (written.concat(), 3));
    assert!(budget.held_bytes() > 0, "the other one needs them");
    assert_eq!(read(&tail, b, 1).unwrap(), (written[1..].concat(), 3));
    assert_eq!(budget.held_bytes(), 0);
    assert!(read(&tail, a, 3).is_none());
}

#[test]
fn nothing_is_kept_for_nobody() {
    let (budget, tail) = tail(64 << 20);
    push(&tail, 0, 1000);
    assert_eq!(budget.held_bytes(), 0);
    let reader = tail.enter(Offset(0));
    push(&tail, 1, 1000);
    assert!(read(&tail, reader, 0).is_none(), "what it asks for was appended before it came");
    assert!(budget.held_bytes() > 0);
    tail.leave(reader);
    assert_eq!(budget.held_bytes(), 0);
}

#[test]
fn one_that_lags_does_not_hold_what_the_others_have() {
    let (budget, tail) = tail(64 << 20);
    let (lags, keeps_up) = (tail.enter(Offset(0)), tail.enter(Offset(100)));
    push(&tail, 100, 1000);
    push(&tail, 101, 1000);
    tail.reads_file(lags, Offset(50));
    read(&tail, keeps_up, 100).unwrap();
    assert_eq!(budget.held_bytes(), 0);
    // Now it does keep up, and is waited for.
    tail.reads_file(lags, Offset(102));
    push(&tail, 102, 1000);
    read(&tail, keeps_up, 102).unwrap();
    assert_eq!(read(&tail, lags, 102).unwrap().1, 103);
    assert_eq!(budget.held_bytes(), 0);
}

#[test]
fn the_oldest_go_first_whichever_log_they_are_of() {
    let budget = TailBudget::new(4 * PINNED_BYTES);
    let tails = [Tail::new(Arc::clone(&budget)), Tail::new(Arc::clone(&budget))];
    let readers = [tails[0].enter(Offset(0)), tails[1].enter(Offset(0))];
    push(&tails[0], 0, 100_000);
    for i in 0..3 {
        push(&tails[1], i, 100_000);
    }
    assert!(budget.held_bytes() <= 4 * PINNED_BYTES);
    assert!(read(&tails[0], readers[0], 0).is_none());
    assert_eq!(read(&tails[1], readers[1], 0).unwrap().1, 3);
    // A hole in front of what is asked for is not jumped over.
    push(&tails[0], 1, 100_000);
    assert!(read(&tails[0], readers[0], 0).is_none());
    assert_eq!(read(&tails[0], readers[0], 1).unwrap().1, 2);
}

#[test]
fn one_log_holds_no_more_than_its_share() {
    let (budget, tail) = tail(1 << 30);
    let reader = tail.enter(Offset(0));
    for i in 0..200 {
        push(&tail, i, 200_000);
    }
    assert!(budget.held_bytes() <= LOG_BYTES);
    assert!(read(&tail, reader, 0).is_none());
    assert!(read(&tail, reader, 199).is_some());
}

#[test]
fn the_queue_does_not_grow_by_what_was_dropped() {
    let (budget, tail) = tail(1 << 30);
    let slow = Tail::new(Arc::clone(&budget));
    slow.enter(Offset(0));
    push(&slow, 0, 1000);
    let reader = tail.enter(Offset(0));
    for i in 0..10_000 {
        push(&tail, i, 100);
        read(&tail, reader, i).unwrap();
    }
    assert!(lock(&budget.queue).len() <= 2 * VACANT_PLACES);
}

#[test]
fn reads_end_at_the_bound_and_at_the_size() {
    let (_, tail) = tail(64 << 20);
    let reader = tail.enter(Offset(0));
    let written: Vec<_> = (0..4).map(|i| push(&tail, i, 40_000)).collect();
    let read = |max, end| {
        let piece = tail.read(reader, Offset(0), max, Offset(end)).map(|piece| piece.data.concat());
        tail.reads_file(reader, Offset(0));
        piece
    };
    assert_eq!(read(1, 4).unwrap(), written[0], "one, however large");
    // It was given the first one: that is dropped, as it is the only reader.
    assert!(read(1 << 20, 4).is_none());
    let piece = tail.read(reader, Offset(1), 90_000, Offset(3)).unwrap();
    assert_eq!(piece.data.concat(), written[1..3].concat());
    assert!(tail.read(reader, Offset(3), 90_000, Offset(3)).is_none(), "not published yet");
}
