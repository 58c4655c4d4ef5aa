//! The partitions that one stream reads, in turns: a partition is looked at when its high watermark moved, and never polled.

use super::certain::is_beyond_end;
use super::{Amount, Chunk, Terms, read};
use crate::node::Node;
use crate::replicas::{Partition, Registration, Session};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use thalweg_core::{LeaderEpoch, Offset};
use thalweg_proto::ApiError;

/// The partitions of one stream.
#[derive(Debug)]
pub struct Reader {
    terms: Terms,
    session: Arc<Session>,
    slots: Vec<Option<Assigned>>,
    free: Vec<u32>,
    by_name: HashMap<(String, i32), u32>,
    // Slots that may have data, each at most once, in the order in which they get their turn.
    ready: VecDeque<u32>,
    marked: Vec<u32>,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Assigned {
    topic: String,
    index: i32,
    tag: u64,
    next: Offset,
    until: Option<Offset>,
    is_ready: bool,
    registration: Registration,
}

/// One partition's turn.
#[derive(Debug)]
pub struct Turn {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub index: i32,
    /// The tag of its assignment.
    pub tag: u64,
    /// What was read. After an error the partition is no longer assigned.
    pub outcome: Result<Chunk, ApiError>,
    /// That an offset is beyond the end is to be made [`certain`](super::certain::certain) first: with the partition, and the
    /// epoch in which it was led here.
    pub doubt: Option<(Arc<Partition>, LeaderEpoch)>,
}

impl Reader {
    /// A reader of nothing.
    pub fn new(terms: Terms) -> Reader {
        Reader {
            terms,
            session: Session::new(),
            slots: Vec::new(),
            free: Vec::new(),
            by_name: HashMap::new(),
            ready: VecDeque::new(),
            marked: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// How many partitions are assigned.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether this partition is.
    pub fn has(&self, topic: &str, index: i32) -> bool {
        self.by_name.contains_key(&(topic.to_owned(), index))
    }

    /// Reads a partition from `next` on, and if `until` is given, below that. One that is assigned already is moved.
    pub fn assign(&mut self, partition: &Arc<Partition>, tag: u64, next: Offset, until: Option<Offset>) {
        let tp = partition.topic_partition();
        let (topic, index) = (tp.topic.as_str().to_owned(), tp.partition.get());
        self.unassign(&topic, index);
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("a stream has at most 10,000 partitions")
        });
        // Ready at first: what is there already marks nobody.
        let registration = partition.register(self.session.slot(at));
        self.by_name.insert((topic.clone(), index), at);
        self.slots[at as usize] =
            Some(Assigned { topic, index, tag, next, until, is_ready: true, registration });
        self.ready.push_back(at);
    }

    /// Stops reading a partition. Nothing happens if it is not assigned.
    pub fn unassign(&mut self, topic: &str, index: i32) {
        if let Some(at) = self.by_name.remove(&(topic.to_owned(), index)) {
            self.forget(at);
        }
    }

    fn forget(&mut self, at: u32) {
        if let Some(assigned) = self.slots[at as usize].take() {
            if assigned.is_ready {
                self.ready.retain(|other| *other != at);
            }
            self.free.push(at);
        }
    }

    /// Waits until a partition may have something new. Safe to drop and call again.
    pub async fn marked(&self) {
        self.session.marked().await;
    }

    /// The next partition with data or an error; `None` if there is none now.
    pub fn next_turn(&mut self, node: &Node, amount: Amount) -> Option<Turn> {
        self.take_marks();
        while let Some(at) = self.ready.pop_front() {
            let Some(assigned) = &mut self.slots[at as usize] else { continue };
            assigned.is_ready = false;
            assigned.registration.acknowledge();
            let partition = assigned.registration.partition();
            let mut doubt = None;
            let leading = partition.leading().map(|role| role.leader_epoch);
            let outcome = match leading {
                None => Err(node.not_led_here(&assigned.topic, assigned.index)),
                Some(epoch) => {
                    let amount = Amount { until: assigned.until, ..amount };
                    let outcome = read(partition, assigned.next, &self.terms, amount, &mut self.scratch);
                    let is_doubtful = outcome.as_ref().is_err_and(is_beyond_end);
                    doubt = is_doubtful.then(|| (Arc::clone(partition), epoch));
                    outcome
                }
            };
            let outcome = match outcome {
                Ok(None) => continue,
                Ok(Some(chunk)) => {
                    assigned.next = chunk.next_offset;
                    // The others first.
                    if chunk.next_offset < chunk.readable_end {
                        assigned.is_ready = true;
                        self.ready.push_back(at);
                    }
                    Ok(chunk)
                }
                Err(error) => Err(error),
            };
            let (topic, index, tag) = (assigned.topic.clone(), assigned.index, assigned.tag);
            let turn = Turn { topic, index, tag, outcome, doubt };
            if turn.outcome.is_err() {
                self.unassign(&turn.topic, turn.index);
            }
            return Some(turn);
        }
        None
    }

    fn take_marks(&mut self) {
        self.session.take_ready(&mut self.marked);
        for at in self.marked.drain(..) {
            if let Some(Some(assigned)) = self.slots.get_mut(at as usize)
                && !assigned.is_ready
            {
                assigned.is_ready = true;
                self.ready.push_back(at);
            }
        }
    }
}
