//! Great groups. Times are printed, not checked: run with `--release -- --nocapture`.

use super::*;

/// So many members over 1,000 partitions, each with a held heartbeat; a debug build takes fewer.
const MEMBERS: usize = if cfg!(debug_assertions) { 150 } else { 1_000 };

struct Crowd {
    rig: Rig,
    clients: Vec<Client>,
    calls: BTreeMap<CallId, usize>,
    heartbeats: usize,
}

impl Crowd {
    fn new(partitions: usize) -> Crowd {
        let rig = Rig::new(i32::try_from(partitions).unwrap());
        Crowd { rig, clients: Vec::new(), calls: BTreeMap::new(), heartbeats: 0 }
    }

    fn join(&mut self) {
        let client = Client::new("g", &format!("member-{:05}", self.clients.len()));
        self.clients.push(client);
        self.send(self.clients.len() - 1);
    }

    fn send(&mut self, who: usize) {
        let call = self.clients[who].send(&mut self.rig, 20_000);
        self.calls.insert(call, who);
        self.heartbeats += 1;
    }

    /// Everybody hears what was answered, and says what it has, until nobody hears anything.
    fn talk(&mut self) {
        while let Some(call) = self.rig.replies.keys().next().copied() {
            let Some(who) = self.calls.remove(&call) else {
                self.rig.replies.remove(&call);
                continue;
            };
            self.clients[who].hear(&mut self.rig, call).unwrap().unwrap();
            self.send(who);
        }
    }

    fn settle(&mut self) {
        self.talk();
        while self.rig.group("g").state() != GroupState::Stable {
            self.rig.pass(10);
            self.talk();
        }
    }
}

use thalweg_core::group::GroupState;

#[test]
fn a_thousand_members_join_in_a_storm_and_one_leaves() {
    let mut crowd = Crowd::new(1_000);
    let begin = crowd.rig.now.mono;
    let clock = std::time::Instant::now;
    let real = clock();
    for n in 0..MEMBERS {
        crowd.join();
        if n % 10 == 9 {
            // A thousand within two seconds.
            crowd.rig.pass(20);
            crowd.talk();
        }
    }
    let joined = crowd.rig.now.mono;
    crowd.settle();
    println!(
        "{MEMBERS} members joined within {:?} and were stable {:?} later; {} heartbeats, {} writes, {:?} of work",
        joined - begin,
        crowd.rig.now.mono - joined,
        crowd.heartbeats,
        crowd.rig.shard.written().0,
        real.elapsed(),
    );
    let has: Vec<usize> = crowd.clients.iter().map(|client| client.has.len()).collect();
    assert_eq!(has.iter().sum::<usize>(), 1_000);
    assert!(has.iter().max().unwrap() - has.iter().min().unwrap() <= 1);

    let (real, left, beats) = (clock(), crowd.rig.now.mono, crowd.heartbeats);
    let leaver = crowd.clients.len() / 2;
    let before: Vec<_> = crowd.clients.iter().map(|client| client.has.clone()).collect();
    crowd.clients[leaver].clone().leave(&mut crowd.rig, -1).unwrap();
    crowd.clients[leaver].has.clear();
    crowd.calls.retain(|_, who| *who != leaver);
    crowd.settle();
    println!(
        "one left: the others own its partitions {:?} later; {} heartbeats, {:?} of work",
        crowd.rig.now.mono - left,
        crowd.heartbeats - beats,
        real.elapsed(),
    );
    for (who, client) in crowd.clients.iter().enumerate().filter(|(who, _)| *who != leaver) {
        assert!(client.has.is_superset(&before[who]), "nobody else pauses");
    }
}

#[test]
fn many_members_of_many_groups_only_send_heartbeats() {
    let clock = std::time::Instant::now;
    let (groups, members) = if cfg!(debug_assertions) { (10, 20) } else { (100, 100) };
    let mut rig = Rig::new(100);
    let mut clients: Vec<Client> =
        (0..groups * members).map(|n| Client::new(&format!("g{}", n % groups), &format!("m{n}"))).collect();
    let calls: Vec<CallId> = clients.iter().map(|client| client.send(&mut rig, 0)).collect();
    rig.pass(1_000);
    for (client, call) in clients.iter_mut().zip(calls) {
        client.hear(&mut rig, call).unwrap().unwrap();
    }
    for _ in 0..6 {
        clients.iter_mut().for_each(|client| drop(client.beat(&mut rig).unwrap()));
        rig.pass(100);
    }
    let (real, written) = (clock(), rig.shard.written());
    clients.iter_mut().for_each(|client| drop(client.beat(&mut rig).unwrap()));
    println!("{} heartbeats took {:?}", clients.len(), real.elapsed());
    assert_eq!(rig.shard.written(), written, "none of them writes");
}

#[test]
fn many_callers_commit() {
    let clock = std::time::Instant::now;
    let mut rig = Rig::new(64);
    let commits = if cfg!(debug_assertions) { 2_000 } else { 100_000 };
    let real = clock();
    for n in 0..commits {
        rig.commit_outside("g", &[(n % 64, i64::from(n))]);
        rig.log.clear_if_long();
    }
    println!("{commits} commits took {:?}", real.elapsed());
    assert_eq!(rig.committed("g").len(), 64);
}

trait ClearIfLong {
    fn clear_if_long(&mut self);
}

impl ClearIfLong for Vec<(WriteId, Vec<GroupRecord>)> {
    /// Keeps the last write only, to be counted on from.
    fn clear_if_long(&mut self) {
        if self.len() > 1_000 {
            self.drain(..self.len() - 1);
        }
    }
}

#[test]
fn members_that_want_different_topics_are_assigned_too() {
    use thalweg_core::group::{Assignor, Subscriber, TopicSpec};
    let clock = std::time::Instant::now;
    let spec = |name: &str| TopicSpec { name: name.into(), racks: vec![BTreeSet::new(); MEMBERS] };
    let (one, two) = (TopicId([1; 16]), TopicId([2; 16]));
    let topics = BTreeMap::from([(one, spec("one")), (two, spec("two"))]);
    let both = Arc::new(BTreeSet::from([one, two]));
    let first = Arc::new(BTreeSet::from([one]));
    let mut members: BTreeMap<Arc<str>, Subscriber> = (0..MEMBERS)
        .map(|n| {
            let topics = Arc::clone(if n % 2 == 0 { &both } else { &first });
            (format!("m{n:05}").as_str().into(), Subscriber { topics, ..Subscriber::default() })
        })
        .collect();
    for what in ["from nothing", "again", "after a fifth left"] {
        let real = clock();
        let assignment = Assignor::Uniform.assign(&members, &topics);
        println!("{} unlike members, {what}: {:?}", members.len(), real.elapsed());
        assert_eq!(assignment.values().map(BTreeSet::len).sum::<usize>(), 2 * MEMBERS);
        for (id, got) in assignment {
            members.get_mut(&id).unwrap().held = got;
        }
        if what == "again" {
            let keep: Vec<_> =
                members.keys().enumerate().filter(|(n, _)| n % 5 != 0).map(|(_, id)| id.clone()).collect();
            members.retain(|id, _| keep.contains(id));
        }
    }
    let real = clock();
    let mut newcomers = members.clone();
    let one = newcomers.values().next().unwrap().topics.clone();
    let everything: BTreeSet<_> = members.values().flat_map(|member| member.held.iter().copied()).collect();
    newcomers.values_mut().for_each(|member| member.held.clear());
    newcomers.values_mut().next().unwrap().held = everything;
    let assignment = Assignor::Uniform.assign(&newcomers, &topics);
    println!("all of one member's partitions dealt out: {:?}", real.elapsed());
    assert!(!one.is_empty() && assignment.values().map(BTreeSet::len).max().unwrap() <= 3);
}
