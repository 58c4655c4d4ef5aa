//! Which brokers are alive, as far as the leading controller can tell: pure, with time as an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use thalweg_core::{BrokerEpoch, BrokerId};

/// The last sign of life of each broker. Kept by the leader only, and begun anew with each leadership: a new leader gives
/// every broker a whole session before it fences any.
#[derive(Debug, Default)]
pub struct Sessions {
    seen: BTreeMap<BrokerId, (BrokerEpoch, Instant)>,
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

    /// The brokers among `alive` that have been silent for a whole session. One that is not known yet begins its session now.
    pub fn expired(
        &mut self,
        alive: impl Iterator<Item = (BrokerId, BrokerEpoch)>,
        session: Duration,
        now: Instant,
    ) -> Vec<(BrokerId, BrokerEpoch)> {
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
        assert!(sessions.expired([one].into_iter(), session, at(8)).is_empty());
        sessions.touch(one.0, one.1, at(8));
        assert!(sessions.expired([one].into_iter(), session, at(16)).is_empty());
        assert_eq!(sessions.expired([one].into_iter(), session, at(17)), [one]);
        let again = (BrokerId(1), BrokerEpoch(8));
        assert!(
            sessions.expired([again].into_iter(), session, at(18)).is_empty(),
            "a new incarnation begins anew"
        );
    }
}
