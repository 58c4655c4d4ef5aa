//! How far a member has got in each of its partitions, and what of it may be committed.
//!
//! ```text
//!   committed ≤ done ≤ given ≤ fetched            (a seek moves all but `committed` to its offset)
//!       │         │       └ handed to the application
//!       │         └ handed to it, and it came back since: an automatic commit takes this
//!       └ durable
//! ```
//! Records are at least once: what was given and not yet done is given again to whoever gets the partition next.

#[cfg(test)]
mod tests;

use crate::{LeaderEpoch, Offset};
use std::collections::BTreeMap;

/// A place in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The next record.
    pub offset: Offset,
    /// The leader epoch of the record before it; `NONE` if it is not known.
    pub leader_epoch: LeaderEpoch,
}

/// The places of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// What to fetch next.
    pub fetched: Offset,
    /// What to give to the application next.
    pub given: Position,
    /// Everything before it was given, and dealt with.
    pub done: Position,
    /// What is known to be durable; `None`: nothing.
    pub committed: Option<Offset>,
    /// Whether nothing is to be given for now.
    pub paused: bool,
}

/// The places of all partitions of a member. `K` names a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Positions<K> {
    places: BTreeMap<K, Places>,
}

impl Position {
    /// An offset with a leader epoch.
    pub const fn new(offset: Offset, leader_epoch: LeaderEpoch) -> Position {
        Position { offset, leader_epoch }
    }

    /// An offset without.
    pub const fn at(offset: Offset) -> Position {
        Position { offset, leader_epoch: LeaderEpoch::NONE }
    }
}

impl<K> Default for Positions<K> {
    fn default() -> Positions<K> {
        Positions { places: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Positions<K> {
    /// Begins with a partition. `committed` is what is durable, if anything is.
    pub fn assign(&mut self, key: K, start: Position, committed: Option<Offset>) {
        let places = Places { fetched: start.offset, given: start, done: start, committed, paused: false };
        self.places.insert(key, places);
    }

    /// Puts a partition back as it was.
    pub fn restore(&mut self, key: K, places: Places) {
        self.places.insert(key, places);
    }

    /// Forgets a partition, and says how far it was.
    pub fn remove(&mut self, key: &K) -> Option<Places> {
        self.places.remove(key)
    }

    /// The places of one.
    pub fn get(&self, key: &K) -> Option<&Places> {
        self.places.get(key)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &Places)> {
        self.places.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Records below `next` were fetched.
    pub fn fetched(&mut self, key: &K, next: Offset) {
        if let Some(places) = self.places.get_mut(key) {
            places.fetched = places.fetched.max(next);
        }
    }

    /// Records below `next` were given to the application. Says whether it has the partition and they were not given before.
    pub fn given(&mut self, key: &K, next: Position) -> bool {
        let Some(places) = self.places.get_mut(key).filter(|places| next.offset > places.given.offset) else {
            return false;
        };
        places.given = next;
        places.fetched = places.fetched.max(next.offset);
        true
    }

    /// The application is back: it has dealt with everything that it was given.
    pub fn all_done(&mut self) {
        for places in self.places.values_mut() {
            places.done = places.given;
        }
    }

    /// The application has dealt with what was given of one partition.
    pub fn done(&mut self, key: &K) {
        if let Some(places) = self.places.get_mut(key) {
            places.done = places.given;
        }
    }

    /// The application has dealt with what it was given of one partition, up to there.
    pub fn done_to(&mut self, key: &K, to: Position) {
        if let Some(places) = self.places.get_mut(key)
            && (places.done.offset..=places.given.offset).contains(&to.offset)
        {
            places.done = to;
        }
    }

    /// Goes on from elsewhere. Says whether it has the partition.
    pub fn seek(&mut self, key: &K, to: Offset) -> bool {
        let Some(places) = self.places.get_mut(key) else { return false };
        places.fetched = to;
        places.given = Position::at(to);
        places.done = places.given;
        true
    }

    /// Gives nothing of a partition for now, or again. Says whether it has the partition.
    pub fn pause(&mut self, key: &K, paused: bool) -> bool {
        let Some(places) = self.places.get_mut(key) else { return false };
        places.paused = paused;
        true
    }

    /// What an automatic commit has to say: everything done that is not durable, in order.
    pub fn to_commit(&self) -> Vec<(K, Position)> {
        let behind = self.places.iter().filter(|(_, places)| places.owes());
        behind.map(|(key, places)| (key.clone(), places.done)).collect()
    }

    /// A commit is durable.
    pub fn committed(&mut self, key: &K, offset: Offset) {
        if let Some(places) = self.places.get_mut(key) {
            places.committed = Some(offset);
        }
    }
}

impl Places {
    /// Whether something is done that is not durable. Where a partition begins counts too, also when nothing came yet: who takes
    /// it over shall not begin at a later end. One without a position, [`Offset::NONE`], has nothing to say.
    fn owes(&self) -> bool {
        self.done.offset >= Offset::ZERO && self.committed != Some(self.done.offset)
    }
}
