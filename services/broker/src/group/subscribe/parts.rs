//! The partitions of one stream's member: by what name they are read, and how far each is on its way to be read.

use crate::group::poll;
use std::collections::{BTreeMap, HashMap};
use thalweg_core::group::assignor::TopicIdPartition;
use thalweg_core::group::state::Partitions;
use thalweg_core::metadata::MetadataImage;
use thalweg_core::{PartitionId, TopicName};
use thalweg_proto::v1;

/// What is done with a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its place is to be found, as soon as its topic is known here.
    New,
    /// Its place is being found, by the job of that number.
    Finding(u64),
    /// Something failed; it is tried again.
    Failed,
    /// It is read.
    Reading,
    /// It has no place to begin at.
    Nowhere,
    /// It is to be given back.
    Revoking,
}

/// One partition.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its topic's name, once it is known.
    pub topic: Option<TopicName>,
    /// What is done with it.
    pub state: State,
    /// The next offset to send; meaningless before it is [`State::Reading`].
    pub next: i64,
    /// The client wants nothing of it for now.
    pub is_paused: bool,
    /// The client knows that it has it.
    pub is_told: bool,
    /// Where the client wants it to begin, said before its place was found.
    pub sought: Option<i64>,
    /// Where it began for this assignment of it. The client may commit nothing before, unless it has sought since (`None`): what
    /// it had read in an earlier assignment, others have gone on from.
    pub began: Option<i64>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Parts {
    parts: BTreeMap<TopicIdPartition, Part>,
    by_name: HashMap<(String, i32), TopicIdPartition>,
    // Those that are `New`.
    new: Partitions,
}

impl Parts {
    /// Begins with some.
    pub fn add(&mut self, partitions: &Partitions) {
        let new = Part {
            topic: None,
            state: State::New,
            next: -1,
            is_paused: false,
            is_told: false,
            sought: None,
            began: None,
        };
        self.parts.extend(partitions.iter().map(|at| (*at, new.clone())));
        self.new.extend(partitions);
    }

    /// Forgets one.
    pub fn remove(&mut self, at: &TopicIdPartition) -> Option<Part> {
        let part = self.parts.remove(at)?;
        self.new.remove(at);
        if let Some(name) = part.key(at)
            && self.by_name.get(&name) == Some(at)
        {
            self.by_name.remove(&name);
        }
        Some(part)
    }

    /// One of them.
    pub fn get(&self, at: &TopicIdPartition) -> Option<&Part> {
        self.parts.get(at)
    }

    /// One of them, to be changed.
    pub fn get_mut(&mut self, at: &TopicIdPartition) -> Option<&mut Part> {
        self.parts.get_mut(at)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&TopicIdPartition, &Part)> {
        self.parts.iter()
    }

    /// How many the member may read.
    pub fn count(&self) -> usize {
        self.parts.values().filter(|part| part.state != State::Revoking).count()
    }

    /// The one of that name.
    pub fn named(&self, topic: &str, partition: i32) -> Option<TopicIdPartition> {
        self.by_name.get(&(topic.to_owned(), partition)).copied()
    }

    /// Names those that are new, as far as the metadata knows them, and gives them.
    pub fn name(&mut self, image: &MetadataImage, job: u64) -> Vec<(TopicIdPartition, TopicName)> {
        let mut named = Vec::new();
        let (parts, by_name) = (&mut self.parts, &mut self.by_name);
        self.new.retain(|at| {
            let Some(part) = parts.get_mut(at).filter(|part| part.state == State::New) else { return false };
            let Some(topic) = image.topic_by_id(at.topic) else { return true };
            part.topic = Some(topic.name.clone());
            part.state = State::Finding(job);
            by_name.insert((topic.name.to_string(), at.partition.get()), *at);
            named.push((*at, topic.name.clone()));
            false
        });
        named
    }

    /// Whether one waits for its topic to become known.
    pub fn has_new(&self) -> bool {
        !self.new.is_empty()
    }

    /// What failed is tried anew. Those that were read already go on where they were, and are given.
    pub fn retry(&mut self) -> Vec<TopicIdPartition> {
        let mut placed = Vec::new();
        for (at, part) in self.parts.iter_mut().filter(|(_, part)| part.state == State::Failed) {
            if part.is_placed() {
                part.state = State::Reading;
                placed.push(*at);
            } else {
                part.state = State::New;
                self.new.insert(*at);
            }
        }
        placed
    }

    /// Those that a client named, of which it has none of the others.
    pub fn resolve(&self, topics: &[v1::TopicPartitions]) -> Vec<TopicIdPartition> {
        let at = |topic: &v1::TopicPartitions, index: i32| {
            if !topic.topic.is_empty() {
                return self.named(&topic.topic, index);
            }
            let topic = thalweg_core::TopicId(topic.topic_id.as_ref().try_into().ok()?);
            let at = TopicIdPartition { topic, partition: PartitionId(index) };
            self.parts.contains_key(&at).then_some(at)
        };
        let each = topics.iter().flat_map(|topic| topic.partitions.iter().filter_map(move |p| at(topic, *p)));
        each.collect()
    }

    /// As the client is told of them.
    pub fn describe<'a>(
        &self,
        partitions: impl IntoIterator<Item = &'a TopicIdPartition>,
    ) -> Vec<v1::TopicPartitions> {
        poll::by_topic(partitions, |at| self.parts.get(at)?.topic.clone())
    }
}

impl Part {
    /// Whether the client can have read, in this assignment of the partition, up to an offset.
    pub fn may_commit(&self, offset: i64) -> bool {
        self.is_told && self.began.is_none_or(|began| offset >= began)
    }

    /// Whether the client knows where it is read.
    pub fn is_placed(&self) -> bool {
        self.is_told && self.next >= 0
    }

    /// Its name to the leaders.
    pub fn key(&self, at: &TopicIdPartition) -> Option<(String, i32)> {
        Some((self.topic.as_ref()?.to_string(), at.partition.get()))
    }
}
