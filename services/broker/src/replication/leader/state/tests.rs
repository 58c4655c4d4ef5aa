use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const ME: BrokerId = BrokerId(1);
const MAX_LAG: Duration = Duration::from_secs(30);

fn ids(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().map(|id| BrokerId(*id)).collect()
}

fn at(log_end: i64, flushed: i64) -> ReplicaProgress {
    ReplicaProgress { log_end: Offset(log_end), flushed: Offset(flushed) }
}

fn who(id: i32) -> BrokerRef {
    BrokerRef { id: BrokerId(id), epoch: BrokerEpoch(i64::from(id) * 10) }
}

struct Setup {
    replicas: Vec<BrokerId>,
    adding: Vec<BrokerId>,
    isr: Vec<BrokerId>,
    partition_epoch: i32,
    min: usize,
    write_caching: bool,
}

impl Setup {
    fn new(isr: &[i32]) -> Setup {
        Setup {
            replicas: ids(&[1, 2, 3]),
            adding: Vec::new(),
            isr: ids(isr),
            partition_epoch: 5,
            min: 1,
            write_caching: false,
        }
    }

    fn terms(&self) -> Terms<'_> {
        Terms {
            leader_epoch: LeaderEpoch(3),
            partition_epoch: PartitionEpoch(self.partition_epoch),
            replicas: &self.replicas,
            adding: &self.adding,
            isr: &self.isr,
            min_insync_replicas: self.min,
            write_caching: self.write_caching,
        }
    }

    fn lead(&self, start: i64, now: Instant) -> LeaderState {
        LeaderState::new(ME, &self.terms(), Offset(start), now)
    }
}

fn active(id: BrokerId) -> Option<BrokerEpoch> {
    Some(who(id.get()).epoch)
}

fn propose(state: &mut LeaderState, hw: i64, end: i64, now: Instant) -> Option<Vec<i32>> {
    let isr = state.propose(who(1).epoch, Offset(hw), Offset(end), MAX_LAG, now, active);
    isr.map(|isr| isr.iter().map(|member| member.id.get()).collect())
}

#[test]
fn the_high_watermark_waits_for_every_member_and_for_nobody_else() {
    let now = Instant::now();
    let mut state = Setup::new(&[1, 2]).lead(0, now);
    assert_eq!(state.high_watermark(Offset(0), at(10, 10)), Offset(0), "2 has not spoken");
    state.follow(who(2), at(4, 3), Offset(10), now).unwrap();
    assert_eq!(state.high_watermark(Offset(0), at(10, 10)), Offset(3));
    state.position(who(2), at(9, 9), Offset(10), now).unwrap();
    assert_eq!(state.high_watermark(Offset(3), at(10, 8)), Offset(8), "its own disk counts too");
    state.follow(who(3), at(1, 1), Offset(10), now).unwrap();
    assert_eq!(state.high_watermark(Offset(3), at(10, 10)), Offset(9), "3 is not in sync");
    // It follows anew from further back: nothing goes back.
    state.follow(who(2), at(2, 2), Offset(10), now).unwrap();
    assert_eq!(state.high_watermark(Offset(9), at(10, 10)), Offset(9));
}

#[test]
fn with_fewer_in_sync_than_asked_for_nothing_becomes_committed() {
    let now = Instant::now();
    let mut setup = Setup { min: 2, ..Setup::new(&[1]) };
    let mut state = setup.lead(0, now);
    assert_eq!(state.high_watermark(Offset(0), at(10, 10)), Offset(0));
    setup.isr = ids(&[1, 2]);
    setup.partition_epoch += 1;
    state.update(&setup.terms(), now);
    state.follow(who(2), at(10, 10), Offset(10), now).unwrap();
    assert_eq!(state.high_watermark(Offset(0), at(10, 10)), Offset(10));
    // More than there are replicas cannot be asked for here.
    let alone = Setup { replicas: ids(&[1]), min: 2, ..Setup::new(&[1]) };
    assert_eq!(alone.lead(0, now).high_watermark(Offset(0), at(10, 10)), Offset(10));
    // Nor of those that are not there yet.
    let growing = Setup { adding: ids(&[2, 3]), min: 2, ..Setup::new(&[1]) };
    assert_eq!(growing.lead(0, now).high_watermark(Offset(0), at(10, 10)), Offset(10));
}

#[test]
fn a_follower_cannot_hold_what_the_leader_lacks_nor_go_back_without_following_anew() {
    let now = Instant::now();
    let mut state = Setup { write_caching: true, ..Setup::new(&[1, 2]) }.lead(0, now);
    state.follow(who(2), at(50, 99), Offset(10), now).unwrap();
    assert_eq!(state.progress(BrokerId(2)), Some(at(10, 10)));
    state.position(who(2), at(3, 3), Offset(10), now).unwrap();
    assert_eq!(state.progress(BrokerId(2)), Some(at(10, 10)));
    state.follow(who(2), at(3, 3), Offset(10), now).unwrap();
    assert_eq!(state.progress(BrokerId(2)), Some(at(3, 3)));
}

#[test]
fn only_replicas_and_their_newest_incarnation_are_heard() {
    let now = Instant::now();
    let mut state = Setup::new(&[1, 2]).lead(0, now);
    let newer = BrokerRef { epoch: BrokerEpoch(21), ..who(2) };
    assert_eq!(state.follow(who(4), at(0, 0), Offset(10), now), Err(Stale::NoReplica));
    assert_eq!(
        state.position(who(2), at(9, 9), Offset(10), now),
        Err(Stale::OldIncarnation),
        "it never followed"
    );
    state.follow(who(2), at(9, 9), Offset(10), now).unwrap();
    state.follow(newer, at(0, 0), Offset(10), now).unwrap();
    assert_eq!(state.position(who(2), at(10, 10), Offset(10), now), Err(Stale::OldIncarnation));
    assert_eq!(state.follow(who(2), at(10, 10), Offset(10), now), Err(Stale::OldIncarnation));
    assert_eq!(state.progress(BrokerId(2)), Some(at(0, 0)));
}

#[test]
fn a_member_that_is_behind_for_too_long_leaves() {
    let now = Instant::now();
    let mut state = Setup::new(&[1, 2, 3]).lead(0, now);
    state.follow(who(2), at(10, 10), Offset(10), now).unwrap();
    state.follow(who(3), at(10, 10), Offset(10), now).unwrap();
    let later = now + MAX_LAG * 2;
    assert_eq!(propose(&mut state, 10, 10, later), None, "an idle partition has no lag");
    // 3 follows what is appended, always a little behind; 2 does not.
    for second in 1..=60 {
        let end = 10 + second;
        let now = later + Duration::from_secs(second as u64);
        state.position(who(3), at(end - 1, end - 1), Offset(end), now).unwrap();
        state.position(who(2), at(10, 10), Offset(end), now).unwrap();
    }
    assert_eq!(propose(&mut state, 10, 70, later + Duration::from_secs(60)), Some(vec![1, 3]));
}

#[test]
fn a_disk_that_does_not_flush_is_behind_too() {
    let now = Instant::now();
    let mut state = Setup::new(&[1, 2]).lead(0, now);
    state.follow(who(2), at(10, 3), Offset(10), now).unwrap();
    let later = now + MAX_LAG + Duration::from_secs(1);
    state.position(who(2), at(10, 3), Offset(10), later).unwrap();
    assert_eq!(propose(&mut state, 3, 10, later), Some(vec![1]));
}

#[test]
fn a_follower_joins_once_it_holds_all_that_is_committed_and_the_epochs_start() {
    let now = Instant::now();
    let mut state = Setup::new(&[1]).lead(10, now);
    state.follow(who(2), at(6, 6), Offset(20), now).unwrap();
    assert!(!state.may_join(BrokerId(2), Offset(5), now));
    assert_eq!(propose(&mut state, 5, 20, now), None, "below the start of the epoch");
    state.position(who(2), at(10, 9), Offset(20), now).unwrap();
    assert_eq!(propose(&mut state, 5, 20, now), None, "not flushed");
    state.position(who(2), at(10, 10), Offset(20), now).unwrap();
    assert!(state.may_join(BrokerId(2), Offset(5), now));
    assert_eq!(propose(&mut state, 5, 20, now), Some(vec![1, 2]));
    assert!(!state.may_join(BrokerId(2), Offset(5), now), "it is on its way");
}

/// Catalogue 8, the leader's half: whoever joins is named with the incarnation that caught up, and only while that is the one
/// that is registered and active.
#[test]
fn catalogue_08_a_member_is_named_with_the_incarnation_that_caught_up() {
    let now = Instant::now();
    let mut state = Setup::new(&[1]).lead(0, now);
    state.follow(who(2), at(10, 10), Offset(10), now).unwrap();
    let registered = |epoch| move |id: BrokerId| (id == BrokerId(2)).then_some(BrokerEpoch(epoch));
    let mut ask = |epoch: Option<i64>| {
        let epoch_of = |id| epoch.and_then(|epoch| registered(epoch)(id));
        state.propose(who(1).epoch, Offset(10), Offset(10), MAX_LAG, now, epoch_of)
    };
    assert_eq!(ask(None), None, "it is fenced");
    assert_eq!(ask(Some(21)), None, "it came back since, perhaps with an empty disk");
    assert_eq!(ask(Some(20)), Some(vec![who(1), who(2)]));
}

/// Catalogue 9: until the metadata says so, a change of ISR is neither in force nor not.
#[test]
fn catalogue_09_the_leader_never_assumes_that_a_change_succeeds() {
    let now = Instant::now();
    let mut setup = Setup::new(&[1]);
    let mut state = setup.lead(0, now);
    state.follow(who(2), at(10, 10), Offset(10), now).unwrap();
    assert_eq!(propose(&mut state, 10, 10, now), Some(vec![1, 2]));
    assert_eq!(propose(&mut state, 10, 10, now), None, "one at a time");
    // It may be in force already, so 2 holds the high watermark back.
    assert_eq!(state.high_watermark(Offset(10), at(12, 12)), Offset(10));
    for outcome in [Outcome::Wait, Outcome::Unknown] {
        state.answered(PartitionEpoch(5), outcome, now);
        assert_eq!(state.high_watermark(Offset(10), at(12, 12)), Offset(10), "{outcome:?}");
    }
    assert_eq!(propose(&mut state, 10, 12, now), Some(vec![1, 2]), "the same again");
    // A refusal counts only once no lost attempt can come any more.
    assert!(state.answered(PartitionEpoch(5), Outcome::Refused, now));
    assert_eq!(state.high_watermark(Offset(10), at(12, 12)), Offset(10));
    let later = now + UNSURE_FOR;
    assert_eq!(propose(&mut state, 10, 12, later), Some(vec![1, 2]));
    assert!(state.answered(PartitionEpoch(5), Outcome::Refused, later));
    assert_eq!(state.high_watermark(Offset(10), at(12, 12)), Offset(12));
    // Removal: the one to leave counts until it has left.
    let mut state = Setup { isr: ids(&[1, 2]), ..Setup::new(&[]) }.lead(0, now);
    state.follow(who(2), at(10, 10), Offset(12), now).unwrap();
    let late = now + MAX_LAG * 2;
    assert_eq!(propose(&mut state, 10, 12, late), Some(vec![1]));
    state.answered(PartitionEpoch(5), Outcome::Wait, late);
    assert_eq!(state.high_watermark(Offset(10), at(12, 12)), Offset(10));
    (setup.isr, setup.partition_epoch) = (ids(&[1]), 6);
    state.update(&setup.terms(), late);
    assert_eq!(state.high_watermark(Offset(10), at(12, 12)), Offset(12));
}

#[test]
fn the_high_watermark_stands_still_for_one_that_keeps_up_but_not_for_long() {
    let now = Instant::now();
    let mut state = Setup::new(&[1]).lead(0, now);
    let step = Duration::from_millis(1);
    // Always one behind.
    state.follow(who(2), at(9, 9), Offset(10), now).unwrap();
    state.position(who(2), at(10, 10), Offset(11), now + step).unwrap();
    assert!(state.may_join(BrokerId(2), Offset(11), now + step));
    assert_eq!(propose(&mut state, 11, 11, now + step), None);
    assert!(state.is_holding());
    assert_eq!(state.high_watermark(Offset(11), at(12, 12)), Offset(11));
    state.position(who(2), at(11, 11), Offset(12), now + step * 2).unwrap();
    assert_eq!(propose(&mut state, 11, 12, now + step * 2), Some(vec![1, 2]));

    // One that stops in the middle.
    let mut state = Setup::new(&[1]).lead(0, now);
    state.follow(who(2), at(9, 9), Offset(10), now).unwrap();
    state.position(who(2), at(10, 10), Offset(11), now + step).unwrap();
    assert_eq!(propose(&mut state, 11, 11, now + step), None);
    assert!(!state.release_holds(now + step * 2));
    assert!(state.release_holds(now + step + JOIN_HOLD));
    assert_eq!(state.high_watermark(Offset(11), at(12, 12)), Offset(12));
    state.position(who(2), at(11, 11), Offset(13), now + JOIN_HOLD + step * 2).unwrap();
    state.position(who(2), at(12, 12), Offset(13), now + JOIN_HOLD + step * 3).unwrap();
    assert_eq!(propose(&mut state, 13, 13, now + JOIN_HOLD + step * 3), None);
    assert!(!state.is_holding(), "not again so soon");
}

#[test]
fn replicas_that_come_and_go_are_followed() {
    let now = Instant::now();
    let mut setup = Setup::new(&[1, 2, 3]);
    let mut state = setup.lead(0, now);
    for id in [2, 3] {
        state.follow(who(id), at(5, 5), Offset(10), now).unwrap();
    }
    (setup.replicas, setup.isr, setup.partition_epoch) = (ids(&[1, 2, 4]), ids(&[1, 2]), 6);
    state.update(&setup.terms(), now);
    assert_eq!(state.progress(BrokerId(3)), None);
    assert_eq!(state.progress(BrokerId(2)), Some(at(5, 5)));
    state.follow(who(4), at(5, 5), Offset(10), now).unwrap();
    assert_eq!(propose(&mut state, 5, 10, now), Some(vec![1, 2, 4]));
    assert_eq!(state.stable(at(10, 9)), Offset(5));
}

/// What can happen around a leader.
#[derive(Debug, Clone)]
enum Event {
    Append(i64),
    /// A follower's log grows, and is flushed so far behind its end.
    Copy(usize, i64, i64),
    /// The leader hears of it.
    Tell(usize),
    Propose,
    /// A request reaches the controllers; the oldest that is on its way.
    Deliver,
    /// The leader hears of no answer.
    Lose,
    /// The oldest request is delivered, and the leader does not hear of it.
    DeliverUnheard,
    /// A broker is fenced, or active again.
    Fence(usize),
    /// The metadata comes to the leader.
    Learn,
    Pass(u64),
    Release,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => (1i64..5).prop_map(Event::Append),
        4 => (0usize..2, 0i64..6, 0i64..3).prop_map(|(who, more, unflushed)| Event::Copy(who, more, unflushed)),
        4 => (0usize..2).prop_map(Event::Tell),
        3 => Just(Event::Propose),
        3 => Just(Event::Deliver),
        1 => Just(Event::Lose),
        1 => Just(Event::DeliverUnheard),
        1 => (0usize..2).prop_map(Event::Fence),
        2 => Just(Event::Learn),
        1 => (1u64..20_000).prop_map(Event::Pass),
        1 => Just(Event::Release),
    ];
    prop::collection::vec(event, 1..120)
}

/// The controllers, the followers and one leader between them.
struct World {
    setup: Setup,
    fenced: [bool; 2],
    logs: [ReplicaProgress; 2],
    end: i64,
    high_watermark: Offset,
    now: Instant,
    state: LeaderState,
    // What the leader waits for, and what is on its way though the leader has given up on it.
    asked: Option<(PartitionEpoch, Vec<BrokerRef>)>,
    lost: Vec<(PartitionEpoch, Vec<BrokerRef>, Instant)>,
    learnt: (Vec<BrokerId>, i32),
}

impl World {
    fn new(write_caching: bool, min: usize) -> World {
        let now = Instant::now();
        let setup = Setup { write_caching, min, ..Setup::new(&[1, 2, 3]) };
        let mut state = setup.lead(0, now);
        for id in [2, 3] {
            state.follow(who(id), at(0, 0), Offset(0), now).unwrap();
        }
        let learnt = (setup.isr.clone(), setup.partition_epoch);
        World {
            setup,
            fenced: [false; 2],
            logs: [at(0, 0); 2],
            end: 0,
            high_watermark: Offset(0),
            now,
            state,
            asked: None,
            lost: Vec::new(),
            learnt,
        }
    }

    /// What the controllers make of a request; whether it was refused for a member.
    fn decide(&mut self, epoch: PartitionEpoch, isr: &[BrokerRef]) -> Outcome {
        if epoch.get() != self.setup.partition_epoch {
            return Outcome::Wait;
        }
        let gone = |member: &BrokerRef| member.id != ME && self.fenced[member.id.get() as usize - 2];
        if isr.iter().any(gone) {
            return Outcome::Refused;
        }
        self.setup.isr = isr.iter().map(|member| member.id).collect();
        self.setup.partition_epoch += 1;
        Outcome::Wait
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Append(n) => self.end += n,
            Event::Copy(i, more, unflushed) => {
                let end = (self.logs[i].log_end.get() + more).min(self.end);
                let flushed = self.logs[i].flushed.get().max(end - unflushed);
                self.logs[i] = at(end, flushed);
            }
            Event::Tell(i) => {
                let id = i32::try_from(i).unwrap() + 2;
                self.state.position(who(id), self.logs[i], Offset(self.end), self.now).unwrap();
            }
            // One request at a time, as the keeper of ISRs does.
            Event::Propose if self.asked.is_some() => {}
            Event::Propose => {
                let fenced = self.fenced;
                let epoch_of = |id: BrokerId| (!fenced[id.get() as usize - 2]).then(|| who(id.get()).epoch);
                let epoch = self.state.partition_epoch();
                let (hw, end) = (self.high_watermark, Offset(self.end));
                if let Some(isr) = self.state.propose(who(1).epoch, hw, end, MAX_LAG, self.now, epoch_of) {
                    self.asked = Some((epoch, isr));
                }
            }
            Event::Deliver => {
                if let Some((epoch, isr)) = self.asked.take() {
                    let outcome = self.decide(epoch, &isr);
                    self.state.answered(epoch, outcome, self.now);
                } else if !self.lost.is_empty() {
                    let (epoch, isr, sent) = self.lost.remove(0);
                    if self.now.duration_since(sent) < UNSURE_FOR {
                        self.decide(epoch, &isr);
                    }
                }
            }
            Event::Lose | Event::DeliverUnheard => {
                if let Some((epoch, isr)) = self.asked.take() {
                    if matches!(event, Event::Lose) {
                        self.lost.push((epoch, isr, self.now));
                    } else {
                        self.decide(epoch, &isr);
                    }
                    self.state.answered(epoch, Outcome::Unknown, self.now);
                }
            }
            Event::Fence(i) => {
                self.fenced[i] = !self.fenced[i];
                let id = BrokerId(i32::try_from(i).unwrap() + 2);
                if self.fenced[i] && self.setup.isr.contains(&id) {
                    self.setup.isr.retain(|member| *member != id);
                    self.setup.partition_epoch += 1;
                }
            }
            Event::Learn => {
                self.learnt = (self.setup.isr.clone(), self.setup.partition_epoch);
                self.state.update(&self.setup.terms(), self.now);
            }
            Event::Pass(ms) => self.now += Duration::from_millis(ms),
            Event::Release => {
                self.state.release_holds(self.now);
            }
        }
        let after = self.state.high_watermark(self.high_watermark, at(self.end, self.end));
        assert!(after >= self.high_watermark, "the high watermark went back");
        self.high_watermark = after;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Whoever the controllers may elect without loss, because it is in the ISR that they hold, has all that the leader told
    /// was committed; whatever is lost, late or refused on the way.
    #[test]
    fn every_member_of_the_isr_in_force_holds_all_that_is_committed(
        events in events(),
        write_caching: bool,
        min in 1usize..3,
    ) {
        let mut world = World::new(write_caching, min);
        for event in events {
            let shown = format!("{event:?}");
            world.step(event);
            let holds: BTreeMap<_, _> =
                (2..=3).map(|id| (BrokerId(id), world.logs[id as usize - 2].safe(write_caching))).collect();
            for member in world.setup.isr.iter().filter(|member| **member != ME) {
                prop_assert!(
                    holds[member] >= world.high_watermark,
                    "after {shown}: {member} holds {} of {}", holds[member], world.high_watermark
                );
            }
        }
    }
}
