//! Where each key was written last, in bounded memory: the keys' hashes, not the keys.

use std::hash::{BuildHasher, Hasher, RandomState};
use thalweg_core::Offset;

/// Bytes of one place: a hash of 16 bytes and an offset.
const SLOT_BYTES: usize = 24;
/// How many of 100 places are used at most, so that a search stays short.
const LOAD_PERCENT: usize = 75;

/// A hash in two halves, and the offset plus one; zero where there is none.
type Slot = [u64; 3];

/// Keys' hashes to offsets. Two keys of one hash would be taken for one; with 128 bits and seeds that nobody knows, that does
/// not happen.
pub(super) struct OffsetMap {
    slots: Vec<Slot>,
    used: usize,
    most: usize,
    seeds: [RandomState; 2],
}

impl OffsetMap {
    /// A map of at most `bytes`, and not larger than `keys` need.
    pub fn new(bytes: usize, keys: u64) -> OffsetMap {
        let bound = (bytes / SLOT_BYTES).max(2);
        let wanted = usize::try_from(keys).unwrap_or(usize::MAX).saturating_mul(100) / LOAD_PERCENT;
        let size = wanted.saturating_add(2).min(bound);
        OffsetMap {
            slots: vec![[0; 3]; size],
            used: 0,
            most: (size * LOAD_PERCENT / 100).max(1),
            seeds: [RandomState::new(), RandomState::new()],
        }
    }

    fn hash(&self, key: &[u8]) -> [u64; 2] {
        [0, 1].map(|half: usize| {
            let mut hasher = self.seeds[half].build_hasher();
            hasher.write(key);
            hasher.finish()
        })
    }

    /// The key's place, or the free one where it would be.
    fn find(&self, hash: [u64; 2]) -> usize {
        // The hash as a part of the whole: no division.
        let mut at = ((u128::from(hash[0]) * self.slots.len() as u128) >> 64) as usize;
        // There always is a free one.
        while self.slots[at][2] != 0 && self.slots[at][..2] != hash {
            at += 1;
            if at == self.slots.len() {
                at = 0;
            }
        }
        at
    }

    /// Notes the key's last offset. Returns false, and notes nothing, if the key is new and the map is full.
    #[must_use]
    pub fn put(&mut self, key: &[u8], offset: Offset) -> bool {
        let hash = self.hash(key);
        let at = self.find(hash);
        if self.slots[at][2] == 0 {
            if self.used >= self.most {
                return false;
            }
            self.used += 1;
        }
        // An offset is not negative.
        self.slots[at] = [hash[0], hash[1], offset.get().unsigned_abs() + 1];
        true
    }

    /// The key's last offset, if it is there.
    pub fn get(&self, key: &[u8]) -> Option<Offset> {
        let slot = self.slots[self.find(self.hash(key))];
        let offset = slot[2].checked_sub(1)?;
        i64::try_from(offset).ok().map(Offset)
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_the_last_offset_of_each_key_until_it_is_full() {
        let mut map = OffsetMap::new(100 * SLOT_BYTES, u64::MAX);
        let key = |n: i64| format!("key-{n}");
        let mut taken = 0;
        while map.put(key(taken).as_bytes(), Offset(taken)) {
            taken += 1;
        }
        assert_eq!((taken, map.len()), (75, 75));
        // A key that is there may move on all the same.
        assert!(map.put(key(3).as_bytes(), Offset(1_000)));
        for n in 0..taken {
            let last = if n == 3 { 1_000 } else { n };
            assert_eq!(map.get(key(n).as_bytes()), Some(Offset(last)));
        }
        assert_eq!(map.get(key(taken).as_bytes()), None);
    }

    #[test]
    fn it_is_as_small_as_the_keys_and_takes_one_at_least() {
        let mut map = OffsetMap::new(1 << 30, 3);
        assert!(map.slots.len() < 10);
        assert!((0..3).all(|n: i64| map.put(&n.to_be_bytes(), Offset(n))));
        let mut least = OffsetMap::new(0, 100);
        assert!(least.put(b"", Offset(0)) && !least.put(b"x", Offset(1)));
        assert_eq!((least.get(b""), least.get(b"x")), (Some(Offset(0)), None));
    }
}
