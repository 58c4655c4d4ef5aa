//! `uniform`, also known as `sticky`: as even as can be, moving as little as can be.
//!
//! ```text
//!   1. everybody keeps what it holds and still wants; what two hold goes to the first
//!   2. what nobody holds goes to whoever wants it and has least, to one in a rack of its replicas among equals
//!   3. while somebody has two more than another who could take one of its partitions, one moves
//! ```
//! Step 3 walks chains too: a member may take from one that it shares a topic with, which takes from a third. When it ends, no
//! single move makes the distribution more even. Members that want the same topics end within one partition of one another.

use super::{Assignment, Subscribers, TopicIdPartition, TopicSpec, Topics, nothing, partitions, wanted};
use crate::TopicId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

pub(super) fn assign(members: &Subscribers, topics: &Topics) -> Assignment {
    let wanted = wanted(members, topics);
    let mut state = State::new(members, topics);
    state.keep_what_is_held();
    for (topic, spec, _) in &wanted {
        for partition in partitions(*topic, spec) {
            if !state.owner.contains_key(&partition) {
                state.give_to_the_poorest(partition, spec);
            }
        }
    }
    state.balance();
    state.into_assignment()
}

/// Members are numbers here, in the order of their ids.
struct State<'a> {
    members: &'a Subscribers,
    topics: &'a Topics,
    ids: Vec<&'a Arc<str>>,
    racks: Vec<Option<&'a Arc<str>>>,
    subscribers: BTreeMap<TopicId, Vec<usize>>,
    has: Vec<BTreeSet<TopicIdPartition>>,
    owner: BTreeMap<TopicIdPartition, usize>,
    // Members by how much they have: the poorest subscriber of a topic is found without looking at all of them.
    by_load: BTreeMap<TopicId, BTreeSet<(usize, usize)>>,
}

impl<'a> State<'a> {
    fn new(members: &'a Subscribers, topics: &'a Topics) -> State<'a> {
        let mut subscribers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
        for (at, member) in members.values().enumerate() {
            for topic in member.topics.iter().filter(|topic| topics.contains_key(topic)) {
                subscribers.entry(*topic).or_default().push(at);
            }
        }
        let by_load = subscribers
            .iter()
            .map(|(topic, members)| (*topic, members.iter().map(|at| (0, *at)).collect()))
            .collect();
        State {
            ids: members.keys().collect(),
            racks: members.values().map(|member| member.rack.as_ref()).collect(),
            has: vec![BTreeSet::new(); members.len()],
            owner: BTreeMap::new(),
            members,
            topics,
            subscribers,
            by_load,
        }
    }

    fn keep_what_is_held(&mut self) {
        for (at, member) in self.members.values().enumerate() {
            for held in &member.held {
                let exists = self.topics.get(&held.topic).is_some_and(|spec| {
                    usize::try_from(held.partition.get()).is_ok_and(|p| p < spec.racks.len())
                });
                if exists && member.topics.contains(&held.topic) && !self.owner.contains_key(held) {
                    self.put(*held, at);
                }
            }
        }
    }

    fn give_to_the_poorest(&mut self, partition: TopicIdPartition, spec: &TopicSpec) {
        let Some(candidates) = self.by_load.get(&partition.topic) else { return };
        let Some(&(least, first)) = candidates.first() else { return };
        let near = usize::try_from(partition.partition.get()).ok().and_then(|index| spec.racks.get(index));
        let equals = candidates.range((least, 0)..(least + 1, 0));
        let beside = near.filter(|racks| !racks.is_empty()).and_then(|racks| {
            let mut equals = equals.map(|(_, at)| *at);
            equals.find(|at| self.racks[*at].is_some_and(|rack| racks.contains(rack)))
        });
        self.put(partition, beside.unwrap_or(first));
    }

    /// Moves partitions along the shortest chain from a rich member to one that has at least two less, until there is none.
    fn balance(&mut self) {
        // Each move narrows the distance between two members, so this ends; the bound is for the reader.
        for _ in 0..=self.owner.len() * self.ids.len().max(1) {
            let mut order: Vec<usize> = (0..self.ids.len()).collect();
            order.sort_by_key(|at| (self.has[*at].len(), *at));
            let most = order.last().map_or(0, |richest| self.has[*richest].len());
            let poor = order.iter().take_while(|at| self.has[**at].len() + 2 <= most);
            let Some(chain) = self.first_chain(poor.copied()) else { return };
            for (partition, to) in chain {
                self.put(partition, to);
            }
        }
    }

    /// The first chain to one of `poor`, who come in the order of what they have. Where there is none for one member there is
    /// none for any other that wants the same and has no less.
    fn first_chain(&self, poor: impl Iterator<Item = usize>) -> Option<Vec<(TopicIdPartition, usize)>> {
        let mut in_vain: BTreeSet<&BTreeSet<TopicId>> = BTreeSet::new();
        for member in poor {
            let wants = &*self.members[self.ids[member]].topics;
            if in_vain.contains(wants) {
                continue;
            }
            if let Some(chain) = self.chain_to(member) {
                return Some(chain);
            }
            in_vain.insert(wants);
        }
        None
    }

    /// The moves by which `poor` gets one partition more at the cost of the nearest member with at least two more.
    fn chain_to(&self, poor: usize) -> Option<Vec<(TopicIdPartition, usize)>> {
        let enough = self.has[poor].len() + 2;
        let mut came: BTreeMap<usize, Option<(TopicIdPartition, usize)>> = BTreeMap::from([(poor, None)]);
        let mut queue = VecDeque::from([poor]);
        // Whoever can give of a topic is found with the first who wants it.
        let mut looked_at: BTreeSet<TopicId> = BTreeSet::new();
        while let Some(taker) = queue.pop_front() {
            let mut givers: Vec<(usize, TopicIdPartition)> = Vec::new();
            for topic in self.members[self.ids[taker]].topics.iter() {
                if !looked_at.insert(*topic) {
                    continue;
                }
                for giver in self.subscribers.get(topic).into_iter().flatten() {
                    if !came.contains_key(giver)
                        && let Some(partition) = self.spare(*giver, *topic)
                    {
                        givers.push((*giver, partition));
                    }
                }
            }
            // The richest first, so that as few moves as possible are needed.
            givers.sort_by_key(|(giver, partition)| {
                (std::cmp::Reverse(self.has[*giver].len()), *giver, *partition)
            });
            for (giver, partition) in givers {
                if came.contains_key(&giver) {
                    continue;
                }
                came.insert(giver, Some((partition, taker)));
                if self.has[giver].len() >= enough {
                    return Some(unwind(&came, giver));
                }
                queue.push_back(giver);
            }
        }
        None
    }

    /// A partition of the topic that `giver` can do without best: rather one that it did not hold before.
    fn spare(&self, giver: usize, topic: TopicId) -> Option<TopicIdPartition> {
        let low = TopicIdPartition { topic, partition: crate::PartitionId(i32::MIN) };
        let high = TopicIdPartition { topic, partition: crate::PartitionId(i32::MAX) };
        let held = &self.members[self.ids[giver]].held;
        let mut mine = self.has[giver].range(low..=high).rev();
        mine.clone().find(|partition| !held.contains(partition)).or_else(|| mine.next()).copied()
    }

    fn put(&mut self, partition: TopicIdPartition, to: usize) {
        if let Some(from) = self.owner.insert(partition, to) {
            let before = self.has[from].len();
            self.has[from].remove(&partition);
            self.reload(from, before);
        }
        let before = self.has[to].len();
        self.has[to].insert(partition);
        self.reload(to, before);
    }

    fn reload(&mut self, member: usize, before: usize) {
        let now = self.has[member].len();
        for topic in self.members[self.ids[member]].topics.iter() {
            if let Some(loads) = self.by_load.get_mut(topic) {
                loads.remove(&(before, member));
                loads.insert((now, member));
            }
        }
    }

    fn into_assignment(self) -> Assignment {
        let mut assignment = nothing(self.members);
        for (id, has) in self.ids.into_iter().zip(self.has) {
            if let Some(got) = assignment.get_mut(id) {
                *got = has;
            }
        }
        assignment
    }
}

fn unwind(
    came: &BTreeMap<usize, Option<(TopicIdPartition, usize)>>,
    giver: usize,
) -> Vec<(TopicIdPartition, usize)> {
    let mut moves = Vec::new();
    let mut at = giver;
    while let Some(Some((partition, taker))) = came.get(&at) {
        moves.push((*partition, *taker));
        at = *taker;
    }
    moves
}
