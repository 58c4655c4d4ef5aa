//! What a follower says on its stream. A task of its own, so that positions move the high watermark even while the response
//! waits for the transport.

use super::admission::{self, Admitted, METADATA_PATIENCE, Verdict};
use super::feed::{Line, Word, no_longer_heard};
use crate::node::Node;
use crate::replicas::Partition;
use futures_util::{Stream, StreamExt};
use std::collections::HashMap;
use std::sync::Arc;
use thalweg_core::metadata::command::BrokerRef;
use thalweg_core::metadata::limits::MAX_PARTITIONS;
use thalweg_core::replication::ReplicaProgress;
use thalweg_core::{LeaderEpoch, Offset, PartitionId, TopicId};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::internal::v1::partition_end::Reason;
use tokio::time::Instant;
use tonic::Status;

/// Listens until the follower is gone, and tells the feed.
pub async fn listen<S>(node: Arc<Node>, line: Arc<Line>, messages: S)
where
    S: Stream<Item = Result<internal::ReplicateRequest, Status>> + Send + Unpin,
{
    let over = Inbound::run(node, &line, messages).await;
    if let Err(status) = &over {
        tracing::debug!(%status, "a follower's stream ends");
    }
    line.say(Word::Over(over));
}

struct Inbound<'a> {
    node: Arc<Node>,
    line: &'a Line,
    who: BrokerRef,
    // The slots in force, and which one a partition has.
    slots: HashMap<u32, (Arc<Partition>, LeaderEpoch)>,
    by_partition: HashMap<(TopicId, PartitionId), u32>,
    last_slot: Option<u32>,
    // What waits for this broker's metadata.
    parked: Vec<Parked>,
}

struct Parked {
    wanted: internal::FollowPartition,
    until: Instant,
    error: ApiError,
}

impl Inbound<'_> {
    async fn run<S>(node: Arc<Node>, line: &Line, mut messages: S) -> Result<(), Status>
    where
        S: Stream<Item = Result<internal::ReplicateRequest, Status>> + Send + Unpin,
    {
        let Some(mut message) = messages.next().await.transpose()? else { return Ok(()) };
        let Some(hello) = message.hello.take() else {
            return Err(ApiError::invalid("hello", "the first message says who speaks to whom").to_status());
        };
        let who = admission::hello(&node, &hello).await.map_err(|error| {
            tracing::warn!(follower = hello.follower_id, %error, "a follower was refused");
            error.to_status()
        })?;
        let mut applied = node.replicas.watch();
        let mut inbound = Inbound {
            node,
            line,
            who,
            slots: HashMap::new(),
            by_partition: HashMap::new(),
            last_slot: None,
            parked: Vec::new(),
        };
        loop {
            inbound.take(message)?;
            message = loop {
                let first = inbound.parked.iter().map(|parked| parked.until).min();
                tokio::select! {
                    biased;
                    message = messages.next() => match message.transpose()? {
                        Some(message) => break message,
                        None => return Ok(()),
                    },
                    _ = applied.changed(), if first.is_some() => inbound.try_parked(),
                    () = tokio::time::sleep_until(first.unwrap_or_else(Instant::now)), if first.is_some() => {
                        inbound.try_parked();
                    }
                }
            };
        }
    }

    fn take(&mut self, message: internal::ReplicateRequest) -> Result<(), Status> {
        let invalid = |field, text: &str| Err(ApiError::invalid(field, text).to_status());
        if message.hello.is_some() {
            return invalid("hello", "it was said before");
        }
        for slot in message.unfollow {
            self.unfollow(slot);
        }
        for wanted in message.follow {
            if self.last_slot.is_some_and(|last| wanted.slot <= last) {
                return invalid("follow.slot", "slots go up and are used once");
            }
            self.last_slot = Some(wanted.slot);
            if self.slots.len() + self.parked.len() >= MAX_PARTITIONS {
                return invalid("follow", "more partitions than a cluster has");
            }
            self.follow(wanted, Instant::now() + METADATA_PATIENCE);
        }
        for at in message.positions {
            self.position(&at);
        }
        self.line.grant(message.credit_bytes);
        Ok(())
    }

    fn follow(&mut self, wanted: internal::FollowPartition, until: Instant) {
        match admission::follow(&self.node, self.who, &wanted) {
            Verdict::Follow(admitted) => self.admit(wanted.slot, admitted),
            Verdict::End(reason) => self.line.say(Word::End(wanted.slot, reason)),
            Verdict::NotYet(error) => self.parked.push(Parked { wanted, until, error }),
        }
    }

    fn admit(&mut self, slot: u32, admitted: Admitted) {
        let Admitted { partition, leader_epoch, from, may_join } = admitted;
        let key = (partition.topic_id(), partition.topic_partition().partition);
        if let Some(before) = self.by_partition.insert(key, slot) {
            self.slots.remove(&before);
            self.line.say(Word::Unfollow(before));
        }
        if may_join {
            self.node.isr.ring(&partition);
        }
        self.slots.insert(slot, (Arc::clone(&partition), leader_epoch));
        self.line.say(Word::Follow { slot, who: self.who, partition, leader_epoch, from });
    }

    fn unfollow(&mut self, slot: u32) {
        self.parked.retain(|parked| parked.wanted.slot != slot);
        if let Some((partition, _)) = self.slots.remove(&slot) {
            self.by_partition.remove(&(partition.topic_id(), partition.topic_partition().partition));
            self.line.say(Word::Unfollow(slot));
        }
    }

    fn position(&mut self, at: &internal::FollowerPosition) {
        // A slot that is over may still be spoken of.
        let Some((partition, leader_epoch)) = self.slots.get(&at.slot) else { return };
        let progress = ReplicaProgress { log_end: Offset(at.log_end), flushed: Offset(at.flushed) };
        match partition.position(self.who, *leader_epoch, progress) {
            Some(true) => self.node.isr.ring(partition),
            Some(false) => {}
            // It was removed and added again, and does not know: only if it follows anew does it count.
            None => {
                self.unfollow(at.slot);
                self.line.say(Word::End(at.slot, no_longer_heard()));
            }
        }
    }

    /// Looks again at what waits for the metadata, and refuses what has waited long enough.
    fn try_parked(&mut self) {
        let now = Instant::now();
        for Parked { wanted, until, error } in std::mem::take(&mut self.parked) {
            if now >= until {
                self.line.say(Word::End(wanted.slot, Reason::Error(error.to_proto())));
            } else {
                self.follow(wanted, until);
            }
        }
    }
}
