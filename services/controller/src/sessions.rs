//! Which processes of one kind are alive, as far as the leading controller can tell: pure, with time as an argument.

use crate::kind::{Incarnation, Kind};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// A look this long after the one before says nothing of the others: this process was stopped, or its machine was, and the
/// signs of life that came meanwhile were not heard.
const LONGEST_BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// How long a process may be without a sign of life.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// When it is merely silent.
    pub session: Duration,
    /// When its session's stream ended: its process is gone, or the network broke.
    pub grace: Duration,
}

/// The last sign of life of each process. Kept by the leader only, and begun anew with each leadership: a new leader gives
/// each of them a whole session before it fences any.
#[derive(Debug)]
pub struct Sessions<K: Kind> {
    seen: BTreeMap<K::Id, Seen<K::Epoch>>,
    /// How many streams each incarnation has open. Streams end by themselves, so this outlives a leadership.
    streams: BTreeMap<Incarnation<K>, usize>,
    looked: Option<Instant>,
}

impl<K: Kind> Default for Sessions<K> {
    fn default() -> Self {
        Sessions { seen: BTreeMap::new(), streams: BTreeMap::new(), looked: None }
    }
}

#[derive(Debug, Clone, Copy)]
struct Seen<E> {
    epoch: E,
    at: Instant,
    /// When its last stream broke, if it gave no sign of life since.
    broke: Option<Instant>,
}

impl<K: Kind> Sessions<K> {
    /// A process of that epoch is alive.
    pub fn touch(&mut self, (id, epoch): Incarnation<K>, now: Instant) {
        self.seen.insert(id, Seen { epoch, at: now, broke: None });
    }

    /// A process's session has a stream now.
    pub fn opened(&mut self, who: Incarnation<K>) {
        *self.streams.entry(who).or_default() += 1;
    }

    /// That stream ended. `broke`: on the other side, which did not say that it would stop. Gives whether that is evidence: the
    /// process has no other stream.
    pub fn closed(&mut self, who: Incarnation<K>, broke: bool, now: Instant) -> bool {
        let left = match self.streams.get_mut(&who) {
            Some(count) => {
                *count = count.saturating_sub(1);
                *count
            }
            None => 0,
        };
        if left > 0 {
            return false;
        }
        self.streams.remove(&who);
        let (id, epoch) = who;
        match self.seen.get_mut(&id) {
            Some(seen) if broke && seen.epoch == epoch => {
                seen.broke = Some(now);
                true
            }
            _ => false,
        }
    }

    /// Forgets all: this controller does not lead.
    pub fn clear(&mut self) {
        self.seen.clear();
        self.looked = None;
    }

    /// When the next grace of one with a broken stream ends; one that ended before the last look does not count.
    pub fn next_grace(&self, patience: Patience) -> Option<Instant> {
        let ends = self.seen.values().filter_map(|seen| seen.broke).map(|broke| broke + patience.grace);
        ends.filter(|end| self.looked.is_none_or(|looked| *end > looked)).min()
    }

    /// Those among `alive` that have been without a sign of life for too long. One that is not known yet begins its
    /// session now; all do when the last look was long ago.
    pub fn expired(
        &mut self,
        alive: impl Iterator<Item = Incarnation<K>>,
        patience: Patience,
        now: Instant,
    ) -> Vec<Incarnation<K>> {
        let late = |looked| now.saturating_duration_since(looked) > LONGEST_BETWEEN_LOOKS;
        if self.looked.replace(now).is_some_and(late) {
            tracing::warn!(kind = K::NAME, "this controller stood still; every session begins anew");
            self.seen.clear();
        }
        let mut expired = Vec::new();
        let mut kept = BTreeMap::new();
        for (id, epoch) in alive {
            let seen = match self.seen.get(&id) {
                Some(seen) if seen.epoch == epoch => *seen,
                _ => Seen { epoch, at: now, broke: None },
            };
            let for_long = |since: Instant, limit| now.saturating_duration_since(since) >= limit;
            let broken = seen.broke.is_some_and(|broke| for_long(broke, patience.grace));
            if broken || for_long(seen.at, patience.session) {
                // Told with every look until it is fenced.
                expired.push((id, epoch));
            }
            kept.insert(id, seen);
        }
        self.seen = kept;
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Brokers;
    use thalweg_core::{BrokerEpoch, BrokerId};

    const PATIENCE: Patience =
        Patience { session: Duration::from_secs(9), grace: Duration::from_millis(500) };
    const ONE: (BrokerId, BrokerEpoch) = (BrokerId(1), BrokerEpoch(7));

    fn look(sessions: &mut Sessions<Brokers>, at: Instant) -> Vec<(BrokerId, BrokerEpoch)> {
        sessions.expired([ONE].into_iter(), PATIENCE, at)
    }

    #[test]
    fn a_silent_broker_expires_after_a_whole_session() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut sessions = Sessions::<Brokers>::default();
        assert!(look(&mut sessions, at(0)).is_empty(), "an unknown one begins its session");
        for secs in 1..=16 {
            assert!(look(&mut sessions, at(secs)).is_empty(), "{secs}");
            if secs == 8 {
                sessions.touch(ONE, at(8));
            }
        }
        assert_eq!(look(&mut sessions, at(17)), [ONE]);
        assert_eq!(look(&mut sessions, at(18)), [ONE], "until it is fenced");
        let again = (BrokerId(1), BrokerEpoch(8));
        assert!(
            sessions.expired([again].into_iter(), PATIENCE, at(18)).is_empty(),
            "a new incarnation begins anew"
        );
    }

    #[test]
    fn after_a_standstill_every_session_begins_anew() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut sessions = Sessions::<Brokers>::default();
        assert!(look(&mut sessions, at(0)).is_empty());
        assert!(look(&mut sessions, at(60)).is_empty(), "nobody could be heard");
        for secs in 61..69 {
            assert!(look(&mut sessions, at(secs)).is_empty(), "{secs}");
        }
        assert_eq!(look(&mut sessions, at(69)), [ONE]);
    }

    #[test]
    fn a_broken_stream_leaves_only_the_grace() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut sessions = Sessions::<Brokers>::default();
        sessions.touch(ONE, at(0));
        sessions.opened(ONE);
        assert!(look(&mut sessions, at(100)).is_empty());
        assert!(sessions.closed(ONE, true, at(200)));
        assert_eq!(sessions.next_grace(PATIENCE), Some(at(700)));
        assert!(look(&mut sessions, at(699)).is_empty());
        assert_eq!(look(&mut sessions, at(700)), [ONE]);
        assert_eq!(look(&mut sessions, at(701)), [ONE], "until it is fenced");
        assert_eq!(sessions.next_grace(PATIENCE), None, "but without a timer that has passed");
    }

    #[test]
    fn what_is_no_evidence_leaves_the_whole_session() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let fenced = |change: fn(&mut Sessions<Brokers>, Instant)| {
            let mut sessions = Sessions::<Brokers>::default();
            sessions.touch(ONE, at(0));
            sessions.opened(ONE);
            change(&mut sessions, at(100));
            !look(&mut sessions, at(1_000)).is_empty()
        };
        assert!(fenced(|sessions, now| _ = sessions.closed(ONE, true, now)), "the test can fail");
        assert!(!fenced(|sessions, now| _ = sessions.closed(ONE, false, now)), "it said goodbye");
        assert!(
            !fenced(|sessions, now| {
                sessions.opened(ONE);
                sessions.closed(ONE, true, now);
            }),
            "it has another stream"
        );
        assert!(
            !fenced(|sessions, now| {
                sessions.closed(ONE, true, now);
                sessions.touch(ONE, now + Duration::from_millis(300));
            }),
            "it came back"
        );
        assert!(
            !fenced(|sessions, now| {
                sessions.opened((ONE.0, BrokerEpoch(6)));
                sessions.closed((ONE.0, BrokerEpoch(6)), true, now);
            }),
            "that was an earlier life"
        );
    }
}
