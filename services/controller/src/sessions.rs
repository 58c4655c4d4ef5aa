//! Which brokers are alive, as far as the leading controller can tell: pure, with time as an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use thalweg_core::{BrokerEpoch, BrokerId};

/// A look this long after the one before says nothing of the brokers: this process was stopped, or its machine was, and the
/// signs of life that came meanwhile were not heard.
const LONGEST_BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// The last sign of life of each broker. Kept by the leader only, and begun anew with each leadership: a new leader gives
/// every broker a whole session before it fences any.
#[derive(Debug, Default)]
pub struct Sessions {
    seen: BTreeMap<BrokerId, (BrokerEpoch, Instant)>,
    looked: Option<Instant>,
}

impl Sessions {
    /// A broker of that epoch is alive.
    pub fn touch(&mut self, broker: BrokerId, epoch: BrokerEpoch, now: Instant) {
        self.seen.insert(broker, (epoch, now));
    }

    /// Forgets all: this controller does not lead.
    pub fn clear(&mut self) {
        self.seen.clear();
    }

    /// The brokers among `alive` that have been silent for a whole session. One that is not known yet begins its session now;
    /// all do when the last look was long ago.
    pub fn expired(
        &mut self,
        alive: impl Iterator<Item = (BrokerId, BrokerEpoch)>,
        session: Duration,
        now: Instant,
    ) -> Vec<(BrokerId, BrokerEpoch)> {
        let late = |looked| now.saturating_duration_since(looked) > LONGEST_BETWEEN_LOOKS;
        if self.looked.replace(now).is_some_and(late) {
            tracing::warn!("this controller stood still; every broker's session begins anew");
            self.clear();
        }
        let mut expired = Vec::new();
        let mut kept = BTreeMap::new();
        for (broker, epoch) in alive {
            let since = match self.seen.get(&broker) {
                Some((known, at)) if *known == epoch => *at,
                _ => now,
            };
            if now.saturating_duration_since(since) >= session {
                expired.push((broker, epoch));
            }
            kept.insert(broker, (epoch, since));
        }
        self.seen = kept;
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_broker_expires_after_a_whole_session() {
        let (start, session) = (Instant::now(), Duration::from_secs(9));
        let at = |secs| start + Duration::from_secs(secs);
        let one = (BrokerId(1), BrokerEpoch(7));
        let mut sessions = Sessions::default();
        assert!(
            sessions.expired([one].into_iter(), session, at(0)).is_empty(),
            "an unknown one begins its session"
        );
        for secs in 1..=16 {
            assert!(sessions.expired([one].into_iter(), session, at(secs)).is_empty(), "{secs}");
            if secs == 8 {
                sessions.touch(one.0, one.1, at(8));
            }
        }
        assert_eq!(sessions.expired([one].into_iter(), session, at(17)), [one]);
        let again = (BrokerId(1), BrokerEpoch(8));
        assert!(
            sessions.expired([again].into_iter(), session, at(18)).is_empty(),
            "a new incarnation begins anew"
        );
    }

    #[test]
    fn after_a_standstill_every_session_begins_anew() {
        let (start, session) = (Instant::now(), Duration::from_secs(9));
        let at = |secs| start + Duration::from_secs(secs);
        let one = (BrokerId(1), BrokerEpoch(7));
        let mut sessions = Sessions::default();
        assert!(sessions.expired([one].into_iter(), session, at(0)).is_empty());
        assert!(sessions.expired([one].into_iter(), session, at(60)).is_empty(), "nobody could be heard");
        for secs in 61..69 {
            assert!(sessions.expired([one].into_iter(), session, at(secs)).is_empty(), "{secs}");
        }
        assert_eq!(sessions.expired([one].into_iter(), session, at(69)), [one]);
    }
}
