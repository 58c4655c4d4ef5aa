//! A FetchStream that reads partitions wherever they are led, and follows them when their leaders change.
//!
//! ```text
//!   client ◄── in any order ── relay ◄── lane: this broker
//!              as far as its          ◄── lane: broker 1     each may send one message ahead
//!              credit goes            ◄── lane: broker 2
//! ```
//! A lane gets the credit for one message, and for the next one when the client has taken that. An assignment has a number of
//! its own on the lanes, so that what an old leader sent is told apart from what the new one sends.

use super::lane::{Event, Lane};
use super::outcome::Failure;
use super::patience::Patience;
use super::route::{Route, route};
use crate::node::Node;
use crate::read::decode;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, SelectAll};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::{BrokerId, Offset};
use thalweg_proto::v1::fetch_stream_request::Command;
use thalweg_proto::v1::partition_data::Data;
use thalweg_proto::{ApiError, v1};
use tokio::time::Instant;

/// A stream has no deadline: leaders are looked for as long as it is open.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

type Key = (String, i32);

/// The partitions of one stream.
pub struct Relay {
    node: Arc<Node>,
    start: v1::FetchStreamStart,
    credit: Credit,
    lanes: BTreeMap<BrokerId, Lane>,
    events: SelectAll<BoxStream<'static, Event>>,
    assigned: HashMap<Key, Assigned>,
    by_number: HashMap<u64, Key>,
    // Waits for a leader.
    homeless: Vec<Key>,
    patience: Patience,
    // What waits for the client's credit, with its lane.
    waiting: VecDeque<(Option<BrokerId>, v1::PartitionData)>,
    // Errors; they cost no credit.
    refused: VecDeque<v1::PartitionData>,
    next_number: u64,
}

struct Assigned {
    // The client's name for it, and the lanes'.
    tag: u64,
    number: u64,
    next: i64,
    at: Option<BrokerId>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Credit {
    bytes: i64,
    records: Option<i64>,
}

impl Credit {
    fn is_left(self) -> bool {
        self.bytes > 0 && self.records.is_none_or(|records| records > 0)
    }
}

impl Relay {
    /// A relay of nothing. `start` was checked.
    pub fn new(node: Arc<Node>, start: v1::FetchStreamStart) -> Relay {
        let patience = Patience::new(&node, Instant::now() + FOREVER);
        Relay {
            node,
            start,
            credit: Credit::default(),
            lanes: BTreeMap::new(),
            events: SelectAll::new(),
            assigned: HashMap::new(),
            by_number: HashMap::new(),
            homeless: Vec::new(),
            patience,
            waiting: VecDeque::new(),
            refused: VecDeque::new(),
            next_number: 0,
        }
    }

    /// How many partitions are assigned.
    pub fn len(&self) -> usize {
        self.assigned.len()
    }

    /// Whether this partition is.
    pub fn has(&self, topic: &str, partition: i32) -> bool {
        self.assigned.contains_key(&(topic.to_owned(), partition))
    }

    /// Reads these partitions; one that is assigned already is moved.
    pub fn assign(&mut self, partitions: Vec<v1::FetchStreamPartition>) {
        self.forget(partitions.iter().map(|wanted| (wanted.topic.clone(), wanted.partition)).collect());
        for wanted in partitions {
            let key = (wanted.topic, wanted.partition);
            let number = self.number();
            self.by_number.insert(number, key.clone());
            let assigned = Assigned { tag: wanted.tag, number, next: wanted.offset, at: None };
            // Named twice in one command, the last one counts.
            if let Some(before) = self.assigned.insert(key.clone(), assigned) {
                self.by_number.remove(&before.number);
            } else {
                self.homeless.push(key);
            }
        }
        self.settle();
    }

    /// Stops reading partitions. Nothing happens for one that is not assigned.
    pub fn unassign(&mut self, partitions: impl IntoIterator<Item = (String, i32)>) {
        self.forget(partitions.into_iter().collect());
    }

    /// One command for each lane, however many partitions.
    fn forget(&mut self, keys: HashSet<Key>) {
        let mut by_lane: BTreeMap<BrokerId, Vec<v1::UnassignedPartition>> = BTreeMap::new();
        let mut were_homeless = false;
        for key in &keys {
            let Some(assigned) = self.assigned.remove(key) else { continue };
            self.by_number.remove(&assigned.number);
            match assigned.at {
                Some(at) => {
                    let partition = v1::UnassignedPartition { topic: key.0.clone(), partition: key.1 };
                    by_lane.entry(at).or_default().push(partition);
                }
                None => were_homeless = true,
            }
        }
        if were_homeless {
            self.homeless.retain(|key| !keys.contains(key));
        }
        for (at, partitions) in by_lane {
            if let Some(lane) = self.lanes.get_mut(&at) {
                lane.send(Command::Unassign(v1::FetchStreamUnassign { partitions }));
            }
        }
    }

    /// Allows more data.
    pub fn allow(&mut self, more: v1::FetchStreamCredit) {
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.credit.bytes = self.credit.bytes.saturating_add(signed(more.bytes));
        self.credit.records =
            more.records.map(|records| self.credit.records.unwrap_or(0).saturating_add(signed(records)));
        self.grant_all();
    }

    /// Whether a command still fits.
    pub fn has_room(&self) -> bool {
        self.lanes.values().all(Lane::has_room)
    }

    /// The next data or error. After an error the partition is no longer assigned. Waits for ever when there is nothing. Safe
    /// to drop and call again.
    pub async fn next(&mut self) -> v1::PartitionData {
        loop {
            if let Some(refused) = self.refused.pop_front() {
                return refused;
            }
            if self.credit.is_left()
                && let Some((from, data)) = self.waiting.pop_front()
            {
                if let Some(data) = self.deliver(from, data) {
                    return data;
                }
                continue;
            }
            let broken = self.lanes.iter().find(|(_, lane)| lane.is_broken).map(|(at, _)| *at);
            if let Some(broken) = broken {
                self.lose(broken);
            }
            let (node, homeless) = (&self.node, !self.homeless.is_empty());
            tokio::select! {
                Some((number, event)) = self.events.next() => self.take(number, event),
                true = self.patience.wait(node), if homeless => self.settle(),
                // Nothing is assigned, or the broker stops, which the caller sees.
                else => std::future::pending().await,
            }
        }
    }

    /// Gives a message to the client, if it still wants it, and its lane the right to send another.
    fn deliver(&mut self, from: Option<BrokerId>, mut data: v1::PartitionData) -> Option<v1::PartitionData> {
        let wanted = self.by_number.get(&data.tag).and_then(|key| self.assigned.get_mut(key));
        let wanted = wanted.map(|assigned| {
            self.patience.calm();
            assigned.next = data.next_offset;
            data.tag = assigned.tag;
        });
        if wanted.is_some() {
            let (bytes, records) = weight(&data);
            let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            self.credit.bytes = self.credit.bytes.saturating_sub(signed(bytes as u64));
            if let Some(left) = &mut self.credit.records {
                *left = left.saturating_sub(signed(records));
            }
        }
        let credit = self.credit;
        if credit.is_left()
            && let Some(lane) = from.and_then(|from| self.lanes.get_mut(&from))
        {
            lane.grant(credit.records);
        }
        wanted.map(|()| data)
    }

    fn grant_all(&mut self) {
        if !self.credit.is_left() {
            return;
        }
        let records = self.credit.records;
        // A lane whose message waits here gets its credit when that is taken.
        let busy: Vec<_> = self.waiting.iter().filter_map(|(from, _)| *from).collect();
        for (at, lane) in &mut self.lanes {
            if !busy.contains(at) {
                lane.grant(records);
            }
        }
    }

    fn take(&mut self, number: u64, event: Result<v1::PartitionData, Option<tonic::Status>>) {
        let from = self.lanes.iter().find(|(_, lane)| lane.number == number).map(|(at, _)| *at);
        let Some(from) = from else { return };
        let data = match event {
            Ok(data) => data,
            Err(status) => {
                tracing::debug!(leader = %from, ?status, "a relayed stream ended");
                self.lose(from);
                return;
            }
        };
        if data.error.is_some() {
            self.refuse(data);
            return;
        }
        if let Some(lane) = self.lanes.get_mut(&from) {
            let (bytes, records) = weight(&data);
            lane.spent(bytes, records);
        }
        self.waiting.push_back((Some(from), data));
    }

    fn refuse(&mut self, mut data: v1::PartitionData) {
        let Some(key) = self.by_number.get(&data.tag).cloned() else { return };
        let error = data.error.as_ref().map(ApiError::from_proto);
        let moved =
            error.map(Failure::of_error).is_some_and(|failure| matches!(failure, Failure::Refused(_)));
        if moved {
            self.unsettle(key);
            return;
        }
        if let Some(assigned) = self.assigned.remove(&key) {
            self.by_number.remove(&assigned.number);
            data.tag = assigned.tag;
            self.refused.push_back(data);
        }
    }

    /// Looks for another leader for a partition. What the last one sent and was not taken yet counts no more.
    fn unsettle(&mut self, key: Key) {
        let number = self.number();
        if let Some(assigned) = self.assigned.get_mut(&key) {
            self.by_number.remove(&assigned.number);
            assigned.number = number;
            assigned.at = None;
            self.by_number.insert(number, key.clone());
            self.homeless.push(key);
        }
    }

    fn lose(&mut self, leader: BrokerId) {
        self.lanes.remove(&leader);
        let mut lost: Vec<_> = self
            .assigned
            .iter()
            .filter(|(_, assigned)| assigned.at == Some(leader))
            .map(|(key, _)| key.clone())
            .collect();
        // In an order that does not depend on the map's.
        lost.sort_unstable();
        lost.into_iter().for_each(|key| self.unsettle(key));
    }

    /// Brings those without a home to the leaders of the moment.
    fn settle(&mut self) {
        self.patience.look();
        let mut by_leader: BTreeMap<BrokerId, Vec<v1::FetchStreamPartition>> = BTreeMap::new();
        for key in std::mem::take(&mut self.homeless) {
            let Some(assigned) = self.assigned.get(&key) else { continue };
            let leader = match route(&self.node, &key.0, key.1) {
                Route::Here => self.node.config.node_id,
                Route::There(leader) => leader,
                Route::Nobody(_) => {
                    self.homeless.push(key);
                    continue;
                }
                Route::Refused(error) => {
                    self.refuse_here(key, &error);
                    continue;
                }
            };
            by_leader.entry(leader).or_default().push(v1::FetchStreamPartition {
                topic: key.0,
                partition: key.1,
                offset: assigned.next,
                tag: assigned.number,
            });
        }
        for (leader, partitions) in by_leader {
            self.send_to(leader, partitions);
        }
    }

    fn send_to(&mut self, leader: BrokerId, partitions: Vec<v1::FetchStreamPartition>) {
        if !self.lanes.contains_key(&leader) {
            let number = self.number();
            match Lane::open(&self.node, leader, number, &self.start) {
                Ok((lane, events)) => {
                    self.events.push(events);
                    self.lanes.insert(leader, lane);
                }
                Err(error) => {
                    tracing::debug!(%leader, %error, "a leader cannot be asked");
                    self.homeless.extend(partitions.into_iter().map(|p| (p.topic, p.partition)));
                    return;
                }
            }
        }
        for partition in &partitions {
            if let Some(assigned) = self.assigned.get_mut(&(partition.topic.clone(), partition.partition)) {
                assigned.at = Some(leader);
            }
        }
        if let Some(lane) = self.lanes.get_mut(&leader) {
            lane.send(Command::Assign(v1::FetchStreamAssign { partitions }));
        }
        self.grant_all();
    }

    fn refuse_here(&mut self, key: Key, error: &ApiError) {
        let Some(assigned) = self.assigned.remove(&key) else { return };
        self.by_number.remove(&assigned.number);
        self.refused.push_back(refused(key.0, key.1, assigned.tag, error));
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

/// A partition that cannot be read.
pub fn refused(topic: String, partition: i32, tag: u64, error: &ApiError) -> v1::PartitionData {
    v1::PartitionData {
        topic,
        partition,
        next_offset: Offset::NONE.get(),
        high_watermark: Offset::NONE.get(),
        last_stable_offset: Offset::NONE.get(),
        log_start_offset: Offset::NONE.get(),
        tag,
        error: Some(error.to_proto()),
        data: None,
    }
}

/// What a message costs of a credit, as the leader counts it.
pub fn weight(data: &v1::PartitionData) -> (usize, u64) {
    match &data.data {
        Some(Data::RecordBatches(batches)) => (batches.len(), decode::count_records(batches)),
        Some(Data::Records(set)) => (set.records.iter().map(decode::weight).sum(), set.records.len() as u64),
        None => (0, 0),
    }
}
