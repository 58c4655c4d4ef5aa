//! What the lives of one member have in common.

use super::api::Api;
use crate::board::{Board, GroupPlan, Phase, TOPICS, number};
use crate::checker::{CommitId, Hold, HoldId, Partition, Process, Value};
use crate::workload::{connect_for, records_of};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use thalweg_client::{Client, proto};
use thalweg_core::group::assignor::TopicIdPartition;
use thalweg_core::{PartitionId, TopicId};
use tokio::time::sleep;

/// `session.timeout.ms` of every member.
pub const SESSION: Duration = Duration::from_secs(6);
/// `max.poll.interval.ms` of every member.
pub const REBALANCE: Duration = Duration::from_secs(10);
/// Metadata does not change in a run: a member that fetches it anew stands still meanwhile.
const METADATA_AGE: Duration = Duration::from_secs(1 << 20);

/// A place for one member at a time.
pub struct Seat {
    /// The run.
    pub board: Rc<Board>,
    /// For records.
    pub client: Client,
    /// For everything about the group.
    pub api: Api,
    /// The group.
    pub group: GroupPlan,
    /// Which client machine this is.
    pub index: usize,
    topics: Vec<(TopicId, &'static str)>,
    lives: Cell<u32>,
}

impl Seat {
    /// Connects, and learns the topics' ids.
    pub async fn open(
        board: &Rc<Board>,
        bootstrap: &[String],
        group: GroupPlan,
        index: usize,
        chance: usize,
    ) -> Seat {
        let client = connect_for(bootstrap, METADATA_AGE).await;
        let mut topics = Vec::new();
        for topic in TOPICS {
            loop {
                match client.metadata(topic.name).await {
                    Ok(found) => break topics.push((found.id, topic.name)),
                    Err(_) => sleep(Duration::from_millis(500)).await,
                }
            }
        }
        let (board, api) = (Rc::clone(board), Api::new(bootstrap, chance));
        Seat { board, client, api, group, index, topics, lives: Cell::new(0) }
    }

    /// Whether nothing is to go wrong any more.
    pub fn is_calm(&self) -> bool {
        self.board.phase() >= Phase::Finish
    }

    /// A new process of the member, and its member id.
    pub fn process(&self) -> (Process, String) {
        self.lives.set(self.lives.get() + 1);
        let process = self.board.process();
        (process, format!("{}-{}-{}", self.group.name, self.index, process.0))
    }

    /// The name that a static member on this machine has.
    pub fn instance(&self) -> String {
        format!("{}-{}", self.group.name, self.index)
    }

    /// A partition by its topic's id.
    pub fn named(&self, at: &TopicIdPartition) -> Option<(Partition, &'static str, PartitionId)> {
        let (_, name) = self.topics.iter().find(|(id, _)| *id == at.topic)?;
        Some((number(name, at.partition.get())?, name, at.partition))
    }

    /// The member was told that a partition is its own.
    pub fn begin_hold(
        &self,
        process: Process,
        partition: Partition,
        epoch: Option<i32>,
        punctual: bool,
    ) -> (HoldId, u32) {
        let session = self.board.session();
        let hold = Hold {
            group: self.group.group,
            process,
            session,
            partition,
            epoch,
            start: None,
            from: self.board.now(),
            until: None,
            punctual,
        };
        (self.board.history.borrow_mut().groups.hold(hold), session)
    }

    /// The member has a partition no more.
    pub fn end_hold(&self, hold: HoldId) {
        self.board.history.borrow_mut().groups.ends(hold, self.board.now());
    }

    /// The member was given records.
    pub fn note_poll(
        &self,
        process: Process,
        session: u32,
        partition: Partition,
        records: Vec<(i64, Value)>,
    ) {
        if !records.is_empty() {
            let at = self.board.now();
            let poll = crate::checker::Poll { process, session, partition, at, records };
            self.board.history.borrow_mut().polls.push(poll);
        }
    }

    /// A commit of the partition is about to be sent.
    pub fn begin_commit(&self, hold: HoldId, offset: i64) -> CommitId {
        self.board.history.borrow_mut().groups.commit(hold, offset, self.board.now())
    }

    /// It was acknowledged.
    pub fn end_commit(&self, commit: CommitId) {
        self.board.history.borrow_mut().groups.committed(commit, self.board.now());
    }

    /// What goes wrong, for whoever reads along.
    pub fn say(&self, member: &str, what: &str, why: &dyn std::fmt::Display) {
        tracing::debug!(target: "thalweg_simulation", member, %why, "{what}");
    }

    /// Members that begin with fewer topics change their minds later.
    pub fn subscription(&self, all: bool) -> proto::GroupSubscription {
        let topics = TOPICS.iter().take(if all { TOPICS.len() } else { 1 });
        proto::GroupSubscription {
            topics: topics.map(|topic| topic.name.to_owned()).collect(),
            ..Default::default()
        }
    }

    /// How a member of a Subscribe or of Poll wants to be treated.
    pub fn options(&self, member: &str) -> proto::MemberOptions {
        let millis = |time: Duration| Some(time.as_millis() as u32);
        proto::MemberOptions {
            group_id: self.group.name.to_owned(),
            member_id: member.to_owned(),
            subscription: Some(self.subscription(true)),
            client_id: "simulated".to_owned(),
            session_timeout_ms: millis(SESSION),
            max_poll_interval_ms: millis(REBALANCE),
            offset_reset: proto::OffsetReset::Earliest as i32,
            auto_commit_interval_ms: self.group.auto.then_some(1_500),
            ..Default::default()
        }
    }

    /// The partition and the records of an answer, and where the next ones begin.
    pub fn records(&self, data: &proto::PartitionData) -> Option<Given> {
        Some((number(&data.topic, data.partition)?, records_of(data), data.next_offset))
    }
}

/// The partition and the records of an answer, and where the next ones begin.
pub type Given = (Partition, Vec<(i64, Value)>, i64);

/// The partitions that a member of a Subscribe or of Poll has: each with its hold.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The hold.
    pub hold: HoldId,
    /// The session of its polls.
    pub session: u32,
    /// The next record, once some came.
    pub next: Option<i64>,
    /// What was committed.
    pub committed: Option<i64>,
}

/// All of them.
pub type Places = BTreeMap<Partition, Place>;
