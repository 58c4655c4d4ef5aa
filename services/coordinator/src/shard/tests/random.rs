//! Random calls, ticks, stuck writes and failovers.
//!
//! Checked at each step: what would be loaded is what is in memory; no partition has two owners; no two clients read one; and
//! what was once answered as committed, or shown, is never less after a failover.

use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Join(usize),
    Beat(usize, bool),
    LoseAnswer(usize),
    Leave(usize, bool),
    Commit(usize),
    CommitOutside,
    Read,
    Pass(u64),
    Stuck,
    Durable,
    FailOver(usize, u8),
    Grow,
    Anew,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0usize..5;
    let step = prop_oneof![
        4 => who.clone().prop_map(Step::Join),
        12 => (who.clone(), any::<bool>()).prop_map(|(who, waits)| Step::Beat(who, waits)),
        2 => who.clone().prop_map(Step::LoseAnswer),
        1 => (who.clone(), any::<bool>()).prop_map(|(who, for_now)| Step::Leave(who, for_now)),
        6 => who.prop_map(Step::Commit),
        1 => Just(Step::CommitOutside),
        3 => Just(Step::Read),
        8 => prop_oneof![Just(30u64), Just(3_000), Just(20_000)].prop_map(Step::Pass),
        1 => Just(Step::Stuck),
        2 => Just(Step::Durable),
        1 => (0usize..12, 0u8..3).prop_map(|(lost, form)| Step::FailOver(lost, form)),
        1 => Just(Step::Grow),
        1 => Just(Step::Anew),
    ];
    prop::collection::vec(step, 0..120)
}

struct World {
    rig: Rig,
    clients: Vec<Client>,
    waiting: BTreeMap<usize, CallId>,
    commits: BTreeMap<CallId, Vec<(i32, i64)>>,
    reads: Vec<CallId>,
    /// The least that must be committed, of what was answered or shown.
    floor: BTreeMap<i32, i64>,
    next_offset: i64,
    partitions: i32,
    /// Records that are durable for certain.
    safe: usize,
}

impl World {
    fn new() -> World {
        let clients = (0..5).map(|n| {
            let client = Client::new("g", &format!("m{n}"));
            if n == 4 { client.instance("i") } else { client }
        });
        World {
            rig: Rig::new(4),
            clients: clients.collect(),
            waiting: BTreeMap::new(),
            commits: BTreeMap::new(),
            reads: Vec::new(),
            floor: BTreeMap::new(),
            next_offset: 1,
            partitions: 4,
            safe: 0,
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Join(who) => {
                let client = &mut self.clients[who];
                (client.epoch, client.has) = (0, BTreeSet::new());
                let call = client.send(&mut self.rig, 20_000);
                self.waiting.insert(who, call);
            }
            Step::Beat(who, waits) => {
                let wait = if waits { 20_000 } else { 0 };
                let call = self.clients[who].send(&mut self.rig, wait);
                self.waiting.insert(who, call);
            }
            Step::LoseAnswer(who) => {
                self.waiting.remove(&who);
            }
            Step::Leave(who, for_now) => {
                let client = &mut self.clients[who];
                let epoch = if for_now && !client.instance.is_empty() { -2 } else { -1 };
                client.has.clear();
                let request = v1::HeartbeatRequest { member_epoch: epoch, ..client.request(0) };
                self.rig.call(ShardCall::Heartbeat { request, host: "h".into() });
                client.epoch = 0;
                self.waiting.remove(&who);
                if for_now && who == 4 {
                    client.id = format!("m4-{}", self.next_offset);
                    self.next_offset += 1;
                }
            }
            Step::Commit(who) => {
                let offset = self.next_offset;
                self.next_offset += 1;
                let client = &self.clients[who];
                let offsets: Vec<(i32, i64)> = client.partitions().iter().map(|p| (*p, offset)).collect();
                if !offsets.is_empty() {
                    let request = client.commit_request(&offsets);
                    let call = self.rig.call(ShardCall::CommitOffsets(request));
                    self.commits.insert(call, offsets);
                }
            }
            Step::CommitOutside => {
                let offsets: Vec<(i32, i64)> = (0..self.partitions).map(|p| (p, self.next_offset)).collect();
                self.next_offset += 1;
                let call = self.rig.call(ShardCall::CommitOffsets(commit("g", "t", &offsets)));
                self.commits.insert(call, offsets);
            }
            Step::Read => {
                let request = v1::FetchOffsetsRequest { group_id: "g".to_owned(), ..Default::default() };
                self.reads.push(self.rig.call(ShardCall::FetchOffsets(request)));
            }
            Step::Pass(millis) => self.rig.pass(millis),
            Step::Stuck => {
                self.rig.stuck = true;
                self.safe = self.rig.records().len();
            }
            Step::Durable => {
                self.rig.stuck = false;
                self.rig.make_durable();
            }
            Step::FailOver(lost, form) => self.fail_over(lost, form),
            Step::Grow => {
                self.partitions = (self.partitions + 1).min(9);
                if self.partitions > self.count() {
                    self.rig.grow("t", self.partitions);
                }
            }
            Step::Anew => {
                self.partitions = 4;
                self.rig.delete("t");
                self.rig.create("t", 4);
                // It is another topic: its offsets are, too.
                self.floor.clear();
                self.commits.clear();
                self.reads.clear();
            }
        }
    }

    fn count(&self) -> i32 {
        use thalweg_core::group::TopicLookup;
        self.rig.topics.topic(&TopicName::new("t").unwrap()).unwrap().1
    }

    fn fail_over(&mut self, lost: usize, form: u8) {
        let all = self.rig.records();
        let keep = if self.rig.stuck { all.len().saturating_sub(lost).max(self.safe) } else { all.len() };
        let records = match form {
            0 => all[..keep].to_vec(),
            1 => compacted(&all[..keep], true),
            _ => compacted(&all[..keep], false),
        };
        if records.len() < keep {
            let (short, long) = (
                load(&records, &self.rig.config, self.rig.now),
                load(&all[..keep], &self.rig.config, self.rig.now),
            );
            assert!(short.groups().eq(long.groups()), "a compacted log is the same state");
        }
        self.rig.older = records;
        self.rig.log.clear();
        self.rig.stuck = false;
        self.rig.fail_over(usize::MAX);
        self.safe = 0;
        self.waiting.clear();
        self.commits.clear();
        self.reads.clear();
        let committed =
            &self.rig.shard.groups().next().map(|(_, group)| group.offsets.clone()).unwrap_or_default();
        for (partition, least) in &self.floor {
            let at = (TopicName::new("t").unwrap(), PartitionId(*partition));
            let found = committed.get(&at).map_or(-1, |offset| offset.offset.get());
            assert!(found >= *least, "partition {partition} went back from {least} to {found}");
        }
    }

    /// Clients hear what was answered.
    fn hear(&mut self) {
        for who in 0..self.clients.len() {
            let Some(call) = self.waiting.get(&who).copied() else { continue };
            match self.clients[who].hear(&mut self.rig, call) {
                None => continue,
                Some(Ok(_)) => {}
                Some(Err(_)) => {
                    let client = &mut self.clients[who];
                    (client.epoch, client.has) = (0, BTreeSet::new());
                }
            }
            self.waiting.remove(&who);
        }
        for (call, offsets) in std::mem::take(&mut self.commits) {
            match self.rig.take(call) {
                None => {
                    self.commits.insert(call, offsets);
                }
                Some(reply) => {
                    let codes = results(reply).unwrap_or_else(|code| vec![Some(code); offsets.len()]);
                    for ((partition, offset), code) in offsets.into_iter().zip(codes) {
                        if code.is_none() {
                            let floor = self.floor.entry(partition).or_default();
                            *floor = offset.max(*floor);
                        }
                    }
                }
            }
        }
        for call in std::mem::take(&mut self.reads) {
            match self.rig.take(call) {
                None => self.reads.push(call),
                // A topic was created anew, and the records that dropped its former offsets were lost.
                Some(Err(refusal)) => assert_eq!(refusal.code, ErrorCode::CoordinatorNotAvailable),
                Some(Ok(reply)) => {
                    for (partition, offset) in offsets(reply) {
                        let floor = self.floor.entry(partition).or_default();
                        *floor = offset.max(*floor);
                    }
                }
            }
        }
    }

    fn check(&mut self) {
        // What would be loaded is what is in memory.
        let loaded = load(&self.rig.records(), &self.rig.config, self.rig.now);
        assert!(loaded.groups().eq(self.rig.shard.groups()));
        assert_eq!(
            (loaded.member_count(), loaded.offset_count()),
            (self.rig.shard.member_count(), self.rig.shard.offset_count())
        );
        for (_, group) in self.rig.shard.groups() {
            let mut owners = BTreeMap::new();
            for (id, member) in &group.members {
                for at in member.current.owned.keys().chain(member.current.revoking.keys()) {
                    assert_eq!(owners.insert(*at, id.clone()), None, "{at:?} has two owners");
                }
            }
            assert_eq!(owners, group.owners);
        }
        // A client whose member is still in the group reads only what nobody else does.
        let mut readers = BTreeMap::new();
        for client in self.clients.iter().filter(|client| client.epoch > 0) {
            let known = self.rig.shard.groups().any(|(_, group)| {
                let member = group.members.get(client.id.as_str());
                member.is_some_and(|member| {
                    member.current.epoch.0 == client.epoch || member.current.previous_epoch.0 == client.epoch
                })
            });
            for at in client.has.iter().filter(|_| known) {
                assert_eq!(readers.insert(*at, &client.id), None, "{at:?} is read twice");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_lost_or_shared_whatever_happens(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.run(step);
            world.hear();
            world.check();
        }
        // When nothing happens any more everybody who is left has its share, and what was committed is there.
        world.rig.stuck = false;
        world.rig.make_durable();
        world.hear();
        world.waiting.clear();
        for _ in 0..40 {
            world.rig.pass(3_000);
            for client in &mut world.clients {
                if client.epoch > 0 && client.beat(&mut world.rig).is_err() {
                    (client.epoch, client.has) = (0, BTreeSet::new());
                }
            }
        }
        let read: Vec<_> = world.clients.iter().flat_map(|client| client.has.iter().copied()).collect();
        if world.clients.iter().any(|client| client.epoch > 0) {
            prop_assert_eq!(read.len(), usize::try_from(world.count()).unwrap());
            prop_assert_eq!(read.iter().collect::<BTreeSet<_>>().len(), read.len());
            prop_assert_eq!(world.rig.state("g"), v1::GroupState::Stable);
        }
        // And then one newcomer gets everything.
        world.rig.pass(200_000);
        let mut last = Client::new("g", "last");
        last.join(&mut world.rig).unwrap();
        client::settle(&mut world.rig, &mut [&mut last]);
        prop_assert_eq!(last.has.len(), usize::try_from(world.count()).unwrap());
        prop_assert_eq!(world.rig.state("g"), v1::GroupState::Stable);
    }
}
