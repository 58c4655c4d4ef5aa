//! Where the partitions that are new begin, and those whose place was outside the log go on.

use super::{Found, RETRY, Subscription, place};
use crate::group::poll::failed;
use crate::group::starts::{self, Reading, Start};
use crate::group::subscribe::parts::{Parts, State};
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::Offset;
use thalweg_core::group::assignor::TopicIdPartition;
use thalweg_core::group::positions::Position;
use thalweg_proto::v1;
use thalweg_proto::v1::subscribe_response::Event as Told;
use tokio::time::Instant;

impl Subscription {
    pub(super) fn reading(&self) -> Reading {
        Reading {
            group: self.options.group.clone(),
            member: self.options.member.clone(),
            epoch: self.member.epoch(),
            reset: self.options.reset,
            isolation: self.options.isolation,
        }
    }

    pub(super) fn find_new(&mut self) {
        self.versions.mark_unchanged();
        let job = self.number();
        let named = self.parts.name(&self.node.metadata.snapshot(), job);
        if named.is_empty() {
            return;
        }
        let (node, caller, reading) = (Arc::clone(&self.node), self.caller.clone(), self.reading());
        self.finding.push(Box::pin(async move {
            let outcome = starts::find(&node, &caller, &reading, named.clone()).await;
            Found { job, named, is_reset: false, outcome }
        }));
    }

    pub(super) fn find_reset(&mut self, at: TopicIdPartition) {
        let job = self.number();
        let Some(part) = self.parts.get_mut(&at) else { return };
        let Some(topic) = part.topic.clone() else { return };
        part.state = State::Finding(job);
        let (node, caller, reading) = (Arc::clone(&self.node), self.caller.clone(), self.reading());
        self.finding.push(Box::pin(async move {
            let named = vec![(at, topic.clone())];
            let mut next = starts::reset(&node, &caller, &reading, &named).await;
            let next = next.pop().unwrap_or(Ok(None));
            let outcome = Ok(vec![Start { at, topic, committed: None, next }]);
            Found { job, named, is_reset: true, outcome }
        }));
    }

    pub(super) fn found(&mut self, found: Found) {
        if self.has_said_goodbye {
            return;
        }
        let Found { job, named, is_reset, outcome } = found;
        let wanted = |parts: &mut Parts, at: &TopicIdPartition| {
            parts.get_mut(at).is_some_and(|part| part.state == State::Finding(job))
        };
        let starts = match outcome {
            Ok(starts) => starts,
            Err(error) => {
                tracing::debug!(group = %self.options.group, %error, "where partitions begin was not found; trying again");
                for (at, _) in named {
                    if wanted(&mut self.parts, &at) {
                        self.fail(&at, RETRY);
                    }
                }
                return;
            }
        };
        let (mut told, mut reading) = (Vec::new(), Vec::new());
        let mut nowhere = Vec::new();
        for Start { at, topic, committed, next } in starts {
            if !wanted(&mut self.parts, &at) {
                continue;
            }
            let Some(part) = self.parts.get_mut(&at) else { continue };
            let sought = part.sought.take();
            // Where a first place is found is where the assignment begins.
            let found = next.as_ref().ok().copied().flatten().filter(|_| sought.is_none());
            part.began = match part.is_told {
                false => found,
                // The log may have lost records: it goes on before where it began.
                true => part.began.map(|began| found.unwrap_or(began).min(began)),
            };
            let next = match (sought, next) {
                (Some(sought), _) => Some(sought),
                (None, Ok(next)) => next,
                (None, Err(error)) => {
                    tracing::debug!(%topic, %error, "where a partition begins was not found; trying again");
                    self.fail(&at, RETRY);
                    continue;
                }
            };
            part.next = next.unwrap_or(Offset::NONE.get());
            part.state = if next.is_some() { State::Reading } else { State::Nowhere };
            if !part.is_told {
                part.is_told = true;
                told.push(v1::AssignedPartition {
                    topic_id: at.topic.0.to_vec().into(),
                    topic: topic.to_string(),
                    partition: at.partition.get(),
                    offset: part.next,
                });
            }
            match next {
                Some(offset) if !part.is_paused => {
                    reading.push(place(topic.as_str(), at.partition.get(), offset));
                }
                Some(_) => {}
                None => nowhere.push(failed(&topic, at, &starts::nowhere())),
            }
            if is_reset {
                self.positions.seek(&at, Offset(next.unwrap_or(-1)));
            } else {
                let begin = Position::at(Offset(next.unwrap_or(-1)));
                self.positions.assign(at, begin, committed.map(Offset));
            }
        }
        if !told.is_empty() {
            let member_epoch = self.member.epoch().0;
            self.events.push_back(Told::Assigned(v1::SubscribeAssigned { partitions: told, member_epoch }));
        }
        for data in nowhere {
            let data = self.tagged(data);
            self.events.push_back(Told::Records(data));
        }
        if !reading.is_empty() {
            self.relay.assign(reading);
        }
    }

    pub(super) fn fail(&mut self, at: &TopicIdPartition, pause: Duration) {
        if let Some(part) = self.parts.get_mut(at) {
            part.state = State::Failed;
            self.retry_at.get_or_insert(Instant::now() + pause);
        }
    }

    pub(super) fn retry(&mut self) {
        let mut reading = Vec::new();
        for at in self.parts.retry() {
            let part = self.parts.get_mut(&at).filter(|part| !part.is_paused);
            if let Some((topic, partition, next)) = part.and_then(|part| {
                let (topic, partition) = part.key(&at)?;
                Some((topic, partition, part.next))
            }) {
                reading.push(place(&topic, partition, next));
            }
        }
        if !reading.is_empty() && !self.has_said_goodbye {
            self.relay.assign(reading);
        }
        self.find_due = true;
    }
}
