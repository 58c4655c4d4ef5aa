//! Replicas move off brokers that are drained, and to brokers that have less than their share.

use super::leaders;
use crate::machine::Published;
use crate::quorum::{Proposed, Quorum};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use thalweg_core::BrokerId;
use thalweg_core::metadata::balance::{BalanceLimits, StuckDrain, plan, stuck_drains};
use thalweg_core::metadata::command::{PartitionMove, ReassignPartitions};
use thalweg_core::metadata::{Command, MetadataImage, Response};
use thalweg_runtime::blocking;

/// Pause between two looks. Also the first one after a command that the group did not take; those double.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause before what the group did not take is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Begins moves for as long as this controller leads. What it began goes on without it.
pub async fn run(quorum: &Quorum, limits: BalanceLimits) {
    let propose = |command: Command| async move { quorum.propose(&command).await };
    balance(quorum.published(), limits, propose).await;
}

async fn balance<F>(published: &Published, limits: BalanceLimits, propose: impl Fn(Command) -> F)
where
    F: Future<Output = Proposed>,
{
    let mut changed = published.feed.version();
    let mut leaders_owed = false;
    let mut stuck = BTreeSet::new();
    let mut pause = PAUSE;
    loop {
        changed.borrow_and_update();
        let image = published.image();
        let moving = is_moving(&image);
        // A leader before this one may have begun them.
        leaders_owed |= moving;
        let looked = blocking::run({
            let image = image.clone();
            move || (plan(&image, &limits), stuck_drains(&image))
        });
        let done = match looked.await {
            Ok((moves, drains)) => {
                tell(&mut stuck, drains);
                if !moves.is_empty() {
                    leaders_owed = true;
                    begin(moves, &propose).await
                } else if leaders_owed && !moving {
                    let returned = match leaders::back_to_preferred(&image, 0) {
                        Some(command) => leaders::note(propose(command).await),
                        None => true,
                    };
                    leaders_owed = !returned;
                    returned
                } else {
                    true
                }
            }
            Err(error) => {
                // The same image would end the same way.
                tracing::error!(%error, "the planner of moves died");
                true
            }
        };
        tokio::time::sleep(pause).await;
        if !done {
            // The metadata need not change before the group is able again.
            pause = (pause * 2).min(LONGEST_PAUSE);
            continue;
        }
        pause = PAUSE;
        if changed.changed().await.is_err() {
            // Without the node this duty ends with the leadership.
            return std::future::pending().await;
        }
    }
}

/// Proposes the moves; `false` if that must be tried again.
async fn begin<F>(moves: Vec<PartitionMove>, propose: &impl Fn(Command) -> F) -> bool
where
    F: Future<Output = Proposed>,
{
    let count = moves.len();
    match propose(Command::ReassignPartitions(ReassignPartitions { moves })).await {
        Ok((_, Response::Moves(outcomes))) => {
            let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).next();
            tracing::info!(
                partitions = count,
                refused = refused.map(tracing::field::display),
                "partitions move"
            );
            true
        }
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(%error, "partitions do not move yet; trying again");
            false
        }
    }
}

/// Says once of each drain that it cannot end as things are, and again when it got stuck anew.
fn tell(told: &mut BTreeSet<BrokerId>, stuck: BTreeMap<BrokerId, StuckDrain>) {
    for (id, why) in &stuck {
        if !told.contains(id) {
            tracing::warn!(
                broker = %id,
                nowhere_to_go = why.nowhere_to_go,
                offline = why.offline,
                "the drain of this broker cannot end: some replicas have no other broker to go to, or no leader to copy from; start more brokers, or those that are gone"
            );
        }
    }
    *told = stuck.into_keys().collect();
}

/// Whether any partition gets another replica at the moment. What waits for a broker that is gone does not.
fn is_moving(image: &MetadataImage) -> bool {
    let takes = |id: &BrokerId| image.broker(*id).is_some_and(|broker| broker.is_active());
    image.topics().flat_map(|topic| &topic.partitions).any(|partition| partition.adding.iter().any(takes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::MetadataMachine;
    use std::cell::{Cell, RefCell};
    use std::sync::Arc;
    use thalweg_core::metadata::codec;
    use thalweg_core::metadata::command::{
        AlterPartition, BrokerRef, CreateTopic, DrainBroker, InitCluster, PlacementSpec, RegisterBroker,
    };
    use thalweg_core::metadata::image::FEATURE_LEVEL;
    use thalweg_core::{
        ClusterId, ErrorCode, MetadataVersion, PartitionId, TopicId, TopicName, TopicPartition,
    };
    use thalweg_proto::ApiError;
    use thalweg_raft::StateMachine;

    /// A group that refuses some commands at first.
    struct Group {
        machine: RefCell<MetadataMachine>,
        published: Arc<Published>,
        version: Cell<u64>,
        refusals: Cell<usize>,
    }

    impl Group {
        /// Three active brokers, and `a` with one partition on the first two.
        fn new() -> Group {
            let published = Published::new(None);
            let machine = RefCell::new(MetadataMachine::new(published.clone()));
            let group = Group { machine, published, version: Cell::new(0), refusals: Cell::new(0) };
            let cluster_id = ClusterId("x".into());
            group.run(&Command::InitCluster(InitCluster { cluster_id, feature_level: FEATURE_LEVEL }));
            for id in 1..=3 {
                group.run(&Command::RegisterBroker(RegisterBroker {
                    id: BrokerId(id),
                    cluster_id: None,
                    incarnation: [id as u8; 16],
                    endpoint: "b:1".parse().unwrap(),
                    internal_endpoint: "b:2".parse().unwrap(),
                    rack: None,
                    log_dirs: vec![format!("disk-of-{id}")],
                    clean_shutdown_epoch: None,
                    damaged: false,
                }));
                group.run(&Command::UnfenceBroker(group.broker(id)));
            }
            group.run(&Command::CreateTopic(CreateTopic {
                name: TopicName::new("a").unwrap(),
                id: TopicId([7; 16]),
                placement: PlacementSpec::Explicit(vec![vec![BrokerId(1), BrokerId(2)]]),
                overrides: Default::default(),
                seed: 1,
                internal: false,
            }));
            group
        }

        fn run(&self, command: &Command) -> Response {
            self.version.set(self.version.get() + 1);
            let encoded = codec::encode_command(command).unwrap();
            self.machine.borrow_mut().apply(self.version.get(), &encoded).unwrap()
        }

        fn broker(&self, id: i32) -> BrokerRef {
            let epoch = self.published.image().broker(BrokerId(id)).unwrap().epoch;
            BrokerRef { id: BrokerId(id), epoch }
        }

        fn partition(&self) -> thalweg_core::metadata::PartitionImage {
            self.published.image().topic("a").unwrap().partitions[0].as_ref().clone()
        }

        fn in_sync(&self, isr: &[i32]) {
            let now = self.partition();
            self.run(&Command::AlterPartition(AlterPartition {
                broker: self.broker(now.leader.get()),
                topic_id: TopicId([7; 16]),
                partition: PartitionId(0),
                leader_epoch: now.leader_epoch,
                partition_epoch: now.partition_epoch,
                isr: isr.iter().map(|id| self.broker(*id)).collect(),
            }));
        }

        async fn propose(&self, command: Command) -> Proposed {
            if let Some(left) = self.refusals.get().checked_sub(1) {
                self.refusals.set(left);
                return Err(ApiError::new(ErrorCode::RequestTimedOut, "nobody agrees"));
            }
            let response = self.run(&command);
            Ok((MetadataVersion(self.version.get()), response))
        }

        /// Runs the duty until the partition is as wanted.
        async fn until(&self, wanted: impl Fn() -> bool) {
            let limits = BalanceLimits { automatic: false, ..BalanceLimits::default() };
            let met = async {
                loop {
                    // The duty has the first look.
                    tokio::time::sleep(PAUSE / 10).await;
                    if wanted() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = balance(&self.published, limits, |command| self.propose(command)) => {}
                () = met => {}
                () = tokio::time::sleep(LONGEST_PAUSE * 20) => panic!("given up after the first refusal"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn moves_that_were_not_agreed_on_are_tried_again_though_nothing_changes() {
        let group = Group::new();
        group.run(&Command::DrainBroker(DrainBroker { id: BrokerId(1), cancel: false }));
        group.refusals.set(4);
        group.until(|| group.partition().adding == [BrokerId(3)]).await;
        assert_eq!(group.refusals.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn leaderships_are_owed_until_they_are_back() {
        let group = Group::new();
        group.run(&Command::FenceBroker(group.broker(1)));
        group.run(&Command::UnfenceBroker(group.broker(1)));
        group.in_sync(&[1, 2]);
        let at = TopicPartition::new(TopicName::new("a").unwrap(), PartitionId(0));
        let replicas = Some([1, 2, 3].map(BrokerId).to_vec());
        let moves = vec![PartitionMove { partition: at, replicas }];
        group.run(&Command::ReassignPartitions(ReassignPartitions { moves }));
        assert!(is_moving(&group.published.image()), "somebody else began it");
        group.run(&Command::FenceBroker(group.broker(3)));
        assert!(!is_moving(&group.published.image()), "one that is gone gets nothing");
        group.run(&Command::UnfenceBroker(group.broker(3)));
        group.refusals.set(3);
        let caught_up = Cell::new(false);
        group
            .until(|| {
                if !caught_up.replace(true) {
                    group.in_sync(&[1, 2, 3]);
                }
                group.partition().leader == BrokerId(1)
            })
            .await;
    }

    #[test]
    fn a_stuck_drain_is_told_of_when_it_gets_stuck() {
        let mut told = BTreeSet::new();
        let why = StuckDrain { nowhere_to_go: 1, offline: 0 };
        tell(&mut told, BTreeMap::from([(BrokerId(1), why)]));
        assert_eq!(told, BTreeSet::from([BrokerId(1)]));
        tell(&mut told, BTreeMap::new());
        assert!(told.is_empty(), "so that it is told of again");
    }
}
