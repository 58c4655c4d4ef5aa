//! Finds the anomalies of a history.
//!
//! ```text
//!   acks, polls, drains ──► Seen: which values at which offsets ──► one pass for each kind of anomaly
//! ```

use super::anomaly::{Anomaly, Kind};
use super::check_groups::check_groups;
use super::history::{History, Outcome, Partition, Process, Send, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// All anomalies, by kind, then in the order of the partitions and offsets.
pub fn check(history: &History) -> Vec<Anomaly> {
    let seen = Seen::of(history);
    let mut found = Vec::new();
    unhealed(history, &mut found);
    inconsistent_offsets(&seen, &mut found);
    strange_values(&seen, &mut found);
    duplicates(&seen, &mut found);
    lost_writes(history, &seen, &mut found);
    polls(history, &seen, &mut found);
    orders(history, &seen, &mut found);
    watermarks(history, &mut found);
    check_groups(history, &seen, &mut found);
    found.sort_by_key(|anomaly| anomaly.kind);
    found
}

/// Where each value was seen.
pub(super) struct Seen<'a> {
    sends: HashMap<Value, &'a Send>,
    /// By readers, the drain among them.
    read: BTreeMap<(Partition, i64), BTreeSet<Value>>,
    /// The same, and what acknowledgements said.
    told: BTreeMap<(Partition, i64), BTreeSet<Value>>,
    /// Where readers found a value.
    places: BTreeMap<Value, BTreeSet<(Partition, i64)>>,
    /// What was there in the end, of the partitions that were read to it.
    pub(super) last: BTreeMap<Partition, BTreeMap<i64, Value>>,
}

impl<'a> Seen<'a> {
    fn of(history: &'a History) -> Seen<'a> {
        let mut seen = Seen {
            sends: history.sends.iter().map(|send| (send.value, send)).collect(),
            read: BTreeMap::new(),
            told: BTreeMap::new(),
            places: BTreeMap::new(),
            last: BTreeMap::new(),
        };
        let polled = history.polls.iter().map(|poll| (poll.partition, &poll.records));
        let drained = history.drains.iter().map(|drain| (drain.partition, &drain.records));
        for (partition, records) in polled.chain(drained) {
            for (offset, value) in records {
                seen.read.entry((partition, *offset)).or_default().insert(*value);
                seen.places.entry(*value).or_default().insert((partition, *offset));
            }
        }
        seen.told.clone_from(&seen.read);
        for send in &history.sends {
            // Only a durable record keeps its place: another may lawfully take that of one that was lost.
            if let (Outcome::Ok { offset: Some(offset), .. }, true) = (send.outcome, send.promise.durable) {
                seen.told.entry((send.partition, offset)).or_default().insert(send.value);
            }
        }
        // One that was not read to its end says nothing of what is missing.
        for drain in history.drains.iter().filter(|drain| drain.complete) {
            seen.last.entry(drain.partition).or_default().extend(drain.records.iter().copied());
        }
        seen
    }

    /// Where readers found records of a partition, in order.
    pub(super) fn offsets(&self, partition: Partition) -> impl Iterator<Item = i64> {
        let all = self.read.range((partition, i64::MIN)..=(partition, i64::MAX));
        all.map(|((_, offset), _)| *offset)
    }

    /// The first record that readers know of strictly between two offsets.
    fn between(&self, partition: Partition, low: i64, high: i64) -> Option<i64> {
        let mut inner = self.read.range((partition, low + 1)..(partition, high));
        inner.next().map(|((_, offset), _)| *offset)
    }
}

fn unhealed(history: &History, found: &mut Vec<Anomaly>) {
    for drain in history.drains.iter().filter(|drain| !drain.complete) {
        let detail = format!("the drain ended after {} records", drain.records.len());
        found.push(Anomaly { kind: Kind::NotHealed, partition: drain.partition, detail });
    }
}

fn inconsistent_offsets(seen: &Seen, found: &mut Vec<Anomaly>) {
    for ((partition, offset), values) in seen.told.iter().filter(|(_, values)| values.len() > 1) {
        let detail = format!("offset {offset} held {}", list(values.iter().map(|value| value.0)));
        found.push(Anomaly { kind: Kind::InconsistentOffsets, partition: *partition, detail });
    }
}

fn strange_values(seen: &Seen, found: &mut Vec<Anomaly>) {
    for (value, places) in &seen.places {
        for (partition, offset) in places {
            let (kind, why) = match seen.sends.get(value) {
                None => (Kind::Phantom, "nobody sent it".to_owned()),
                Some(send) if send.partition != *partition => {
                    (Kind::Phantom, format!("it was sent to partition {}", send.partition.0))
                }
                Some(send) => match send.outcome {
                    Outcome::Fail { at } => (Kind::AbortedRead, format!("its send had failed at {at:?}")),
                    Outcome::Ok { .. } | Outcome::Unknown => continue,
                },
            };
            let detail = format!("value {} at offset {offset}: {why}", value.0);
            found.push(Anomaly { kind, partition: *partition, detail });
        }
    }
}

fn duplicates(seen: &Seen, found: &mut Vec<Anomaly>) {
    for (value, places) in &seen.places {
        let Some(send) = seen.sends.get(value).filter(|send| send.promise.once_in_order) else { continue };
        let mut offsets: BTreeSet<i64> = places.iter().map(|(_, offset)| *offset).collect();
        if let Outcome::Ok { offset, .. } = send.outcome {
            offsets.extend(offset);
        }
        if offsets.len() > 1 {
            let detail = format!("value {} at offsets {}", value.0, list(offsets));
            found.push(Anomaly { kind: Kind::Duplicate, partition: send.partition, detail });
        }
    }
}

fn lost_writes(history: &History, seen: &Seen, found: &mut Vec<Anomaly>) {
    let mut told = BTreeSet::new();
    for send in history.sends.iter().filter(|send| send.promise.durable) {
        let Outcome::Ok { at, offset } = send.outcome else { continue };
        let Some(last) = seen.last.get(&send.partition) else { continue };
        // At another offset than was said it is a duplicate of itself, which is told there.
        if offset.is_some_and(|offset| last.get(&offset) == Some(&send.value))
            || seen.places.get(&send.value).is_some_and(|places| {
                places.iter().any(|(partition, place)| {
                    *partition == send.partition && last.get(place) == Some(&send.value)
                })
            })
        {
            continue;
        }
        let offset = offset.unwrap_or(i64::MAX);
        told.insert((send.partition, offset, send.value));
        let end = seen.read.range(..=(send.partition, i64::MAX)).next_back();
        let passed = end.is_some_and(|((partition, end), _)| *partition == send.partition && *end >= offset);
        let kind = if passed { Kind::LostWrite } else { Kind::Unseen };
        let detail = format!("value {} was acknowledged at {at:?} with offset {offset}", send.value.0);
        found.push(Anomaly { kind, partition: send.partition, detail });
    }
    for ((partition, offset), values) in &seen.read {
        let Some(last) = seen.last.get(partition) else { continue };
        for value in values {
            if last.get(offset) != Some(value) && told.insert((*partition, *offset, *value)) {
                let detail = format!("value {} was read at offset {offset} and was gone in the end", value.0);
                found.push(Anomaly { kind: Kind::LostWrite, partition: *partition, detail });
            }
        }
    }
}

/// Every reader's way through a partition, also through one poll.
fn polls(history: &History, seen: &Seen, found: &mut Vec<Anomaly>) {
    let mut ways: BTreeMap<(Process, u32, Partition), Vec<i64>> = BTreeMap::new();
    for hold in &history.groups.holds {
        // A member begins where it was told to.
        let Some(start) = hold.start else { continue };
        ways.insert((hold.process, hold.session, hold.partition), vec![start - 1]);
    }
    for poll in &history.polls {
        let way = ways.entry((poll.process, poll.session, poll.partition)).or_default();
        way.extend(poll.records.iter().map(|(offset, _)| *offset));
    }
    for drain in &history.drains {
        // The drain begins at the start of the log.
        let offsets = std::iter::once(-1).chain(drain.records.iter().map(|(offset, _)| *offset));
        ways.insert((Process(u32::MAX), 0, drain.partition), offsets.collect());
    }
    for ((process, _, partition), way) in &ways {
        for pair in way.windows(2) {
            let (before, after) = (pair[0], pair[1]);
            if after <= before {
                let detail = format!("reader {} was given {after} after {before}", process.0);
                found.push(Anomaly { kind: Kind::NonmonotonicPoll, partition: *partition, detail });
            } else if let Some(skipped) = seen.between(*partition, before, after) {
                let detail =
                    format!("reader {} was given {after} after {before}, without {skipped}", process.0);
                found.push(Anomaly { kind: Kind::PollSkip, partition: *partition, detail });
            }
        }
    }
}

/// The records of one idempotent producer, by the order of its sends: their offsets must rise.
fn orders(history: &History, seen: &Seen, found: &mut Vec<Anomaly>) {
    let mut last: BTreeMap<(Process, Partition), (i64, Value)> = BTreeMap::new();
    for send in history.sends.iter().filter(|send| send.promise.once_in_order) {
        let place = seen.places.get(&send.value).and_then(|places| places.first()).map(|(_, offset)| *offset);
        let acked = match send.outcome {
            Outcome::Ok { offset, .. } => offset,
            Outcome::Fail { .. } | Outcome::Unknown => None,
        };
        let Some(offset) = place.or(acked) else { continue };
        let key = (send.process, send.partition);
        if let Some((before, earlier)) = last.get(&key)
            && *before > offset
        {
            let detail = format!(
                "producer {} sent {} before {}, which are at {before} and {offset}",
                send.process.0, earlier.0, send.value.0
            );
            found.push(Anomaly { kind: Kind::Reordered, partition: send.partition, detail });
        }
        last.insert(key, (offset, send.value));
    }
}

/// An answer to a question that was put after an earlier answer had come must not lie before it.
fn watermarks(history: &History, found: &mut Vec<Anomaly>) {
    let mut highest: BTreeMap<(Process, Partition), (i64, std::time::Duration)> = BTreeMap::new();
    for mark in &history.watermarks {
        let known = highest.entry((mark.process, mark.partition)).or_insert((mark.offset, mark.at));
        if mark.offset < known.0 && mark.asked >= known.1 {
            let detail = format!(
                "client {} was told {} at {:?}, after {} at {:?}",
                mark.process.0, mark.offset, mark.at, known.0, known.1
            );
            found.push(Anomaly { kind: Kind::WatermarkWentBack, partition: mark.partition, detail });
        }
        if mark.offset > known.0 {
            *known = (mark.offset, mark.at);
        }
    }
}

fn list(numbers: impl IntoIterator<Item = impl ToString>) -> String {
    numbers.into_iter().map(|number| number.to_string()).collect::<Vec<_>>().join(", ")
}
