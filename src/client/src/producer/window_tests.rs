use super::*;
use proptest::prelude::*;
use std::cell::Cell;
use std::rc::Rc;

/// A batch of the records `first .. first + count`.
#[derive(Debug)]
struct Fake {
    first: i32,
    count: i32,
    settled: Rc<Cell<bool>>,
}

impl Fake {
    fn new(first: i32, count: i32) -> Fake {
        Fake { first, count, settled: Rc::new(Cell::new(false)) }
    }
}

impl Item for Fake {
    fn count(&self) -> i32 {
        self.count
    }

    fn settled(&self) -> bool {
        self.settled.get()
    }
}

fn identity(epoch: i16) -> Option<Identity> {
    Some(Identity { id: ProducerId(9), epoch: ProducerEpoch(epoch) })
}

fn sequence(entry: &Entry<Fake>) -> i32 {
    entry.stamp.base_sequence.get()
}

#[test]
fn what_failed_goes_out_again_in_order_before_anything_new() {
    let mut window = Window::new(identity(0));
    for (first, count) in [(0, 2), (2, 3), (5, 1)] {
        window.send_new(Fake::new(first, count), identity(0));
    }
    assert!(!window.may_send(3) && window.may_send(4));
    assert!(matches!(window.answer(Answer::Retry), Verdict::Kept));
    assert!(!window.may_send(9), "nothing goes out until the others are answered");
    assert!(matches!(window.answer(Answer::Sequence), Verdict::Kept));
    assert!(!window.at_rest());
    assert!(matches!(window.answer(Answer::Sequence), Verdict::Kept));
    assert!(window.at_rest());
    window.rest();
    assert!(!window.needs_epoch(), "a gap behind a failure mends itself");
    assert!(window.may_send(1));
    assert_eq!([0, 2, 5].map(|_| sequence(window.resend().unwrap())), [0, 2, 5]);
    assert!(window.resend().is_none());
    for _ in 0..3 {
        assert!(matches!(window.answer(Answer::Written), Verdict::Settled(_)));
    }
    assert_eq!(sequence(window.send_new(Fake::new(6, 1), identity(0))), 6);
}

#[test]
fn a_second_failure_goes_before_what_was_not_sent_again_yet() {
    let mut window = Window::new(identity(0));
    for first in 0..3 {
        window.send_new(Fake::new(first, 1), identity(0));
    }
    window.disconnect();
    window.rest();
    window.resend();
    window.answer(Answer::Retry);
    window.rest();
    assert_eq!([0; 3].map(|_| window.resend().unwrap().batch.first), [0, 1, 2]);
}

#[test]
fn a_gap_without_a_failure_needs_an_epoch_and_numbers_anew() {
    let mut window = Window::new(identity(0));
    for first in 0..3 {
        window.send_new(Fake::new(first * 2, 2), identity(0));
    }
    assert!(matches!(window.answer(Answer::Fatal), Verdict::Settled(_)));
    assert!(matches!(window.answer(Answer::Sequence), Verdict::Kept));
    assert!(matches!(window.answer(Answer::Sequence), Verdict::Kept));
    window.rest();
    assert!(window.needs_epoch() && !window.may_send(5));
    assert!(window.adopt(identity(1).unwrap()).is_empty());
    assert!(window.may_send(5));
    let first = window.resend().unwrap();
    assert_eq!((sequence(first), first.stamp.producer_epoch), (0, ProducerEpoch(1)));
    assert_eq!(sequence(window.resend().unwrap()), 2);
    assert_eq!(sequence(window.send_new(Fake::new(6, 1), identity(1))), 4);
}

#[test]
fn another_partitions_epoch_is_taken_over_only_when_empty() {
    let mut window = Window::new(identity(0));
    window.send_new(Fake::new(0, 4), identity(0));
    let second = window.send_new(Fake::new(4, 1), identity(1));
    assert_eq!((sequence(second), second.stamp.producer_epoch), (4, ProducerEpoch(0)));
    window.answer(Answer::Written);
    window.answer(Answer::Written);
    let third = window.send_new(Fake::new(5, 1), identity(1));
    assert_eq!((sequence(third), third.stamp.producer_epoch), (0, ProducerEpoch(1)));
}

#[test]
fn the_parts_of_a_batch_share_its_sequences() {
    let halve = |batch: Fake| Ok([Fake::new(batch.first, 2), Fake::new(batch.first + 2, batch.count - 2)]);
    let mut window = Window::new(identity(0));
    window.send_new(Fake::new(0, 5), identity(0));
    assert!(window.replace(halve).is_none());
    window.rest();
    assert_eq!(sequence(window.resend().unwrap()), 0);
    assert_eq!(sequence(window.resend().unwrap()), 2);
    window.send_new(Fake::new(5, 3), identity(0));
    assert!(window.replace_newest(halve).is_none());
    assert_eq!([sequence(window.resend().unwrap()), sequence(window.resend().unwrap())], [5, 7]);
}

#[test]
fn without_identity_there_are_no_sequences() {
    let mut window = Window::new(None);
    assert_eq!(window.send_new(Fake::new(0, 4), None).stamp, ProducerStamp::NONE);
    window.answer(Answer::Sequence);
    window.rest();
    assert!(!window.needs_epoch());
}

// === against a model of the leader ===

/// Kafka's rules for one producer in one partition.
#[derive(Default)]
struct Leader {
    epoch: i16,
    next: i32,
    recent: Vec<(i32, i32)>,
    log: Vec<i32>,
}

impl Leader {
    fn append(&mut self, stamp: ProducerStamp, first: i32, count: i32) -> Answer {
        let (epoch, sequence) = (stamp.producer_epoch.get(), stamp.base_sequence.get());
        if epoch < self.epoch {
            return Answer::Sequence;
        }
        if epoch > self.epoch {
            if sequence != 0 {
                return Answer::Sequence;
            }
            *self = Leader { epoch, log: std::mem::take(&mut self.log), ..Leader::default() };
        }
        if self.recent.contains(&(sequence, count)) {
            return Answer::Written;
        }
        if sequence != self.next {
            return Answer::Sequence;
        }
        self.next += count;
        self.recent.push((sequence, count));
        if self.recent.len() > 5 {
            self.recent.remove(0);
        }
        self.log.extend(first..first + count);
        Answer::Written
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Send(i32),
    Answer,
    /// Refused without being written.
    Refuse,
    /// Written, but not on enough replicas.
    WrittenButRefused,
    Fatal,
    /// The stream breaks when so many of the requests in flight have been written.
    Break(usize),
    /// The oldest batch's time runs out.
    Expire,
}

fn step(lossless: bool) -> impl Strategy<Value = Step> {
    let mut steps = vec![
        (6, (1..5i32).prop_map(Step::Send).boxed()),
        (6, Just(Step::Answer).boxed()),
        (1, Just(Step::Refuse).boxed()),
        (1, Just(Step::WrittenButRefused).boxed()),
        (1, (0..6usize).prop_map(Step::Break).boxed()),
    ];
    if !lossless {
        steps.push((1, Just(Step::Fatal).boxed()));
        steps.push((1, Just(Step::Expire).boxed()));
    }
    proptest::strategy::Union::new_weighted(steps)
}

struct World {
    window: Window<Fake>,
    leader: Leader,
    wire: Vec<(ProducerStamp, i32, i32)>,
    epoch: i16,
    produced: i32,
    delivered: Vec<i32>,
}

impl World {
    fn new() -> World {
        World {
            window: Window::new(identity(0)),
            leader: Leader::default(),
            wire: Vec::new(),
            epoch: 0,
            produced: 0,
            delivered: Vec::new(),
        }
    }

    /// Sends again what waits; `new` records only behind it.
    fn send(&mut self, new: i32) {
        while self.window.may_send(5) {
            let Some(entry) = self.window.resend() else { break };
            self.wire.push((entry.stamp, entry.batch.first, entry.batch.count));
        }
        if new > 0 && self.window.may_send(5) && self.window.retry.is_empty() {
            let entry = self.window.send_new(Fake::new(self.produced, new), identity(self.epoch));
            self.wire.push((entry.stamp, entry.batch.first, entry.batch.count));
            self.produced += new;
        }
    }

    fn answer(&mut self, step: Step) {
        if self.wire.is_empty() {
            return;
        }
        let (stamp, first, count) = self.wire.remove(0);
        let answer = match step {
            Step::Refuse => Answer::Retry,
            Step::Fatal => Answer::Fatal,
            Step::WrittenButRefused => match self.leader.append(stamp, first, count) {
                Answer::Written => Answer::Retry,
                other => other,
            },
            _ => self.leader.append(stamp, first, count),
        };
        match self.window.answer(answer) {
            Verdict::Settled(batch) if answer == Answer::Written => self.deliver(&batch),
            Verdict::Repeated(batch) => self.deliver(&batch),
            Verdict::Settled(_) | Verdict::Kept => {}
        }
        self.settle();
    }

    fn deliver(&mut self, batch: &Fake) {
        if !batch.settled() {
            self.delivered.extend(batch.first..batch.first + batch.count);
        }
    }

    fn settle(&mut self) {
        if self.window.at_rest() {
            self.window.rest();
        }
        if self.window.needs_epoch() && self.window.is_quiet() {
            self.epoch += 1;
            for batch in self.window.adopt(identity(self.epoch).unwrap()) {
                self.deliver(&batch);
            }
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Send(count) => self.send(count),
            Step::Break(written) => {
                let written = written.min(self.wire.len());
                for (stamp, first, count) in self.wire.drain(..).take(written) {
                    self.leader.append(stamp, first, count);
                }
                self.window.disconnect();
                self.settle();
            }
            Step::Expire => {
                if let Some(batch) = self.window.batches_mut().next() {
                    batch.settled.set(true);
                }
            }
            other => self.answer(other),
        }
    }

    fn finish(&mut self) {
        for _ in 0..1_000 {
            self.send(0);
            self.answer(Step::Answer);
        }
        assert!(self.window.is_empty(), "without faults everything gets its outcome");
    }
}

proptest! {
    #[test]
    fn retries_neither_lose_nor_repeat_nor_reorder(steps in proptest::collection::vec(step(true), 0..120)) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.take(step));
        world.finish();
        let all: Vec<i32> = (0..world.produced).collect();
        prop_assert_eq!(&world.leader.log, &all);
        let mut delivered = world.delivered.clone();
        // One that was written but refused is told when it is sent again, behind those that were in flight with it.
        delivered.sort_unstable();
        prop_assert_eq!(&delivered, &all);
        prop_assert_eq!(world.epoch, 0);
    }

    #[test]
    fn with_refusals_and_lost_time_the_order_holds_and_nothing_repeats(
        steps in proptest::collection::vec(step(false), 0..120),
    ) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.take(step));
        world.finish();
        let log = &world.leader.log;
        prop_assert!(log.windows(2).all(|pair| pair[0] < pair[1]), "{log:?}");
        prop_assert!(world.delivered.iter().all(|record| log.contains(record)), "{:?} of {log:?}", world.delivered);
    }
}
