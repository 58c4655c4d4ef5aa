//! What a member of a group promises, whatever the coordinator does.

use super::cluster::{Cluster, TOPIC};
use super::reading::fill;
use futures_util::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thalweg_client::{
    ClientError, CommitError, Consumer, ConsumerConfig, ConsumerError, ConsumerInterceptor, ConsumerRecord,
    OffsetAndMetadata, OffsetReset, Rebalance, RebalanceListener, Start, TypedConsumer, serializers,
};
use thalweg_core::{ErrorCode, LeaderEpoch, Offset, PartitionId, TopicName, TopicPartition};

const LONG: Duration = Duration::from_secs(20);

fn at(partition: i32) -> TopicPartition {
    TopicPartition::new(TopicName::new(TOPIC).unwrap(), PartitionId(partition))
}

fn config() -> ConsumerConfig {
    let mut config = ConsumerConfig::new("g");
    config.offset_reset = OffsetReset::Earliest;
    config
}

async fn consumer(cluster: &Arc<Cluster>, config: ConsumerConfig) -> Consumer {
    let mut consumer = cluster.client().await.consumer(config).unwrap();
    consumer.subscribe([TOPIC]).unwrap();
    consumer
}

async fn next(consumer: &mut Consumer) -> ConsumerRecord {
    tokio::time::timeout(LONG, consumer.next()).await.expect("a record comes").unwrap()
}

/// The first error that comes, passing over records.
async fn error(consumer: &mut Consumer) -> ConsumerError {
    let failed = async {
        loop {
            if let Err(error) = consumer.next().await {
                return error;
            }
        }
    };
    tokio::time::timeout(LONG, failed).await.expect("an error comes")
}

/// Counts records by partition and offset.
#[derive(Default, Clone)]
struct Seen(Arc<Mutex<BTreeMap<(i32, i64), usize>>>);

impl Seen {
    fn note(&self, record: &ConsumerRecord) {
        let key = (record.partition.get(), record.offset.get());
        *self.0.lock().unwrap().entry(key).or_default() += 1;
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn repeated(&self) -> usize {
        self.0.lock().unwrap().values().filter(|count| **count > 1).count()
    }
}

/// What a listener was told.
#[derive(Default)]
struct Told {
    log: Mutex<Vec<(&'static str, Vec<i32>)>>,
    seek: Mutex<Option<i64>>,
    commit: Mutex<Option<i64>>,
}

fn numbers(partitions: &[TopicPartition]) -> Vec<i32> {
    partitions.iter().map(|at| at.partition.get()).collect()
}

impl Told {
    fn all(&self, what: &str) -> Vec<i32> {
        let log = self.log.lock().unwrap();
        log.iter().filter(|(said, _)| *said == what).flat_map(|(_, which)| which.clone()).collect()
    }
}

impl RebalanceListener for Told {
    fn on_assigned(&self, rebalance: &mut Rebalance<'_>) {
        self.log.lock().unwrap().push(("assigned", numbers(rebalance.partitions())));
        if let Some(offset) = *self.seek.lock().unwrap() {
            for at in rebalance.partitions().to_vec() {
                rebalance.seek(&at, Offset(offset));
            }
        }
    }

    fn on_revoked(&self, rebalance: &mut Rebalance<'_>) {
        self.log.lock().unwrap().push(("revoked", numbers(rebalance.partitions())));
        if let Some(offset) = *self.commit.lock().unwrap() {
            for at in rebalance.partitions().to_vec() {
                rebalance.commit(&at, Offset(offset).into());
            }
        }
    }

    fn on_lost(&self, partitions: &[TopicPartition]) {
        self.log.lock().unwrap().push(("lost", numbers(partitions)));
    }
}

#[tokio::test]
async fn a_group_goes_on_where_it_was_and_nothing_is_lost_over_broken_streams() {
    let cluster = Cluster::start(3).await;
    fill(&cluster, 3, 100).await;
    cluster.lock().fetch_limit = 3;
    let seen = Seen::default();
    let mut first = consumer(&cluster, config()).await;
    for _ in 0..150 {
        seen.note(&next(&mut first).await);
        // Cut short again and again: nothing may be lost by it.
        if let Ok(record) = tokio::time::timeout(Duration::from_micros(200), first.next()).await {
            seen.note(&record.unwrap());
        }
        if seen.count() >= 150 {
            break;
        }
    }
    assert_eq!(first.assignment(), [at(0), at(1), at(2)]);
    assert!(first.member_epoch().is_some());
    first.close().await.unwrap();
    assert!(cluster.groups.lock().group.members.is_empty());
    let committed: i64 = cluster.groups.lock().committed().values().sum();
    assert_eq!(committed, seen.count() as i64, "all that was given is committed by closing");
    let mut second = cluster.client().await.consumer(config()).unwrap();
    second.subscribe_pattern("t.*").unwrap();
    while seen.count() < 300 {
        for record in second.poll(LONG).await.unwrap() {
            seen.note(&record);
        }
    }
    assert_eq!(seen.repeated(), 0);
    second.close().await.unwrap();
}

#[tokio::test]
async fn members_share_and_what_moves_is_committed_before() {
    let cluster = Cluster::start(4).await;
    fill(&cluster, 4, 400).await;
    let seen = Seen::default();
    let told = Arc::new(Told::default());
    let mut with_listener = config();
    with_listener.listener = Some(Arc::clone(&told) as Arc<dyn RebalanceListener>);
    let mut first = consumer(&cluster, with_listener).await;
    for _ in 0..50 {
        seen.note(&next(&mut first).await);
    }
    assert_eq!(told.all("assigned"), [0, 1, 2, 3]);
    let mut second = consumer(&cluster, config()).await;
    let both = async {
        while seen.count() < 1_600 || second.assignment().len() < 2 {
            tokio::select! {
                record = first.next() => seen.note(&record.unwrap()),
                record = second.next() => seen.note(&record.unwrap()),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
    };
    tokio::time::timeout(LONG, both).await.expect("everything is read, and two partitions move");
    assert_eq!(seen.repeated(), 0, "what moved was committed first");
    let moved: BTreeSet<i32> = told.all("revoked").into_iter().collect();
    let kept: BTreeSet<i32> = numbers(&first.assignment()).into_iter().collect();
    assert_eq!((moved.len(), kept.len()), (2, 2));
    assert!(moved.is_disjoint(&kept) && told.all("lost").is_empty());
    assert_eq!(numbers(&second.assignment()).into_iter().collect::<BTreeSet<_>>(), moved);
    // The second leaves: the first has all again.
    second.close().await.unwrap();
    let waits = async {
        while first.assignment().len() < 4 {
            let _ = first.poll(Duration::from_millis(20)).await.unwrap();
        }
    };
    tokio::time::timeout(LONG, waits).await.expect("what was given up comes back");
    first.close().await.unwrap();
}

#[tokio::test]
async fn a_member_that_was_put_out_says_so_joins_anew_and_its_old_commits_are_refused() {
    let cluster = Cluster::start(1).await;
    fill(&cluster, 1, 50).await;
    let told = Arc::new(Told::default());
    let mut config = config();
    config.listener = Some(Arc::clone(&told) as Arc<dyn RebalanceListener>);
    config.enable_auto_commit = false;
    let mut consumer = consumer(&cluster, config).await;
    for _ in 0..20 {
        next(&mut consumer).await;
    }
    consumer.commit().await.unwrap();
    for _ in 0..10 {
        next(&mut consumer).await;
    }
    cluster.groups.put_out(consumer.member_id());
    let refused = consumer.commit().await.unwrap_err();
    assert_eq!((refused.code(), refused.retriable()), (Some(ErrorCode::UnknownMember), false));
    let again = async {
        loop {
            let record = next(&mut consumer).await;
            if !told.all("lost").is_empty() {
                return record;
            }
        }
    };
    let record = tokio::time::timeout(LONG, again).await.expect("it joins anew");
    assert_eq!(record.offset, Offset(20), "from what was committed");
    assert_eq!((told.all("lost"), told.all("assigned"), told.all("revoked")), (vec![0], vec![0, 0], vec![]));
    assert_eq!(cluster.groups.lock().committed(), [(0, 20)].into());
    consumer.close().await.unwrap();
}

#[tokio::test]
async fn what_the_application_did_before_it_knew_of_a_loss_is_not_committed_after_it() {
    let cluster = Cluster::start(1).await;
    fill(&cluster, 1, 600).await;
    let mut config = config();
    config.enable_auto_commit = false;
    let mut consumer = consumer(&cluster, config).await;
    for _ in 0..130 {
        next(&mut consumer).await;
    }
    let before = consumer.member_epoch().unwrap();
    // It stood still for longer than its session, and another went on to 500. Its heartbeats are back first.
    cluster.groups.taken_over(consumer.member_id(), 0, 500);
    let member = consumer.member_id().to_owned();
    let back = async {
        while consumer.member_epoch().is_none_or(|epoch| epoch <= before)
            || cluster.groups.lock().group.owners.values().all(|owner| owner.as_str() != member)
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, back).await.expect("it joins anew");
    let refused = consumer.commit().await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::StaleMemberEpoch), "{refused}");
    let named = [(at(0), OffsetAndMetadata::from(Offset(130)))];
    assert!(consumer.commit_offsets(named.clone()).await.is_err());
    assert_eq!(cluster.groups.lock().committed(), [(0, 500)].into());
    // Once it knows, it goes on where the other was, and may commit.
    let again = async {
        loop {
            let record = next(&mut consumer).await;
            if record.offset >= Offset(500) {
                return record;
            }
        }
    };
    assert_eq!(tokio::time::timeout(LONG, again).await.unwrap().offset, Offset(500));
    consumer.commit().await.unwrap();
    assert_eq!(cluster.groups.lock().committed(), [(0, 501)].into());
    // A partition that it does not have is another's.
    let others = consumer.commit_offsets([(at(7), OffsetAndMetadata::from(Offset(1)))]).await.unwrap_err();
    assert_eq!(others.code(), Some(ErrorCode::StaleMemberEpoch));
    consumer.committed(&[at(0)]).await.unwrap();
    assert_eq!(cluster.groups.lock().fetched_by_name, 0, "a topic is asked for by its id");
    consumer.close().await.unwrap();
}

#[tokio::test]
async fn an_error_on_committed_offsets_is_never_taken_for_none() {
    let cluster = Cluster::start(1).await;
    fill(&cluster, 1, 60).await;
    let admin = cluster.client().await.admin();
    let offset =
        OffsetAndMetadata { leader_epoch: LeaderEpoch(3), metadata: "mine".into(), ..Offset(40).into() };
    admin.commit_offsets("g", &[(at(0), offset.clone())]).await.unwrap();
    assert_eq!(admin.committed_offsets("g", &[]).await.unwrap(), [(at(0), offset)].into());
    {
        let mut state = cluster.groups.lock();
        let passing =
            [ErrorCode::CoordinatorNotAvailable, ErrorCode::UnknownMember, ErrorCode::FencedMemberEpoch];
        state.fetch_faults.extend(passing.map(Some));
    }
    let mut first = consumer(&cluster, config()).await;
    assert_eq!(next(&mut first).await.offset, Offset(40));
    let busy = admin.commit_offsets("g", &[(at(0), Offset(1).into())]).await.unwrap_err();
    assert_eq!(busy.code(), Some(ErrorCode::GroupNotEmpty));
    first.close().await.unwrap();
    // One that will not pass is told, and nothing is read until somebody says where to begin.
    cluster.groups.lock().fetch_faults.push_back(Some(ErrorCode::Internal));
    let mut second = consumer(&cluster, config()).await;
    let told = error(&mut second).await;
    assert!(
        matches!(&told, ConsumerError::NoPosition { at, .. } if at.partition == PartitionId(0)),
        "{told}"
    );
    assert!(!told.is_fatal() && second.position(&at(0)).is_none());
    assert!(second.poll(Duration::from_millis(100)).await.unwrap().is_empty());
    second.seek(&at(0), Start::Offset(Offset(50))).await.unwrap();
    assert_eq!(next(&mut second).await.offset, Offset(50));
    second.close().await.unwrap();
}

#[tokio::test]
async fn without_a_reset_a_partition_without_an_offset_waits_for_a_seek() {
    let cluster = Cluster::start(1).await;
    fill(&cluster, 1, 10).await;
    let mut strict = config();
    strict.offset_reset = OffsetReset::None;
    let mut consumer = consumer(&cluster, strict).await;
    let told = error(&mut consumer).await;
    assert!(matches!(told, ConsumerError::NoOffset { .. }), "{told}");
    consumer.seek(&at(0), Start::Earliest).await.unwrap();
    assert_eq!(next(&mut consumer).await.offset, Offset(0));
    let foreign = consumer.seek(&at(7), Start::Earliest).await.unwrap_err();
    assert!(matches!(foreign, ConsumerError::NotAssigned { .. }));
    consumer.close().await.unwrap();
}

#[tokio::test]
async fn an_application_that_stays_away_is_told_and_comes_back() {
    let cluster = Cluster::start(1).await;
    fill(&cluster, 1, 10).await;
    let told = Arc::new(Told::default());
    let mut config = config();
    config.max_poll_interval = Duration::from_secs(1);
    config.listener = Some(Arc::clone(&told) as Arc<dyn RebalanceListener>);
    let mut consumer = consumer(&cluster, config).await;
    next(&mut consumer).await;
    let gone = async {
        while !cluster.groups.lock().group.members.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, gone).await.expect("it leaves");
    let away = error(&mut consumer).await;
    assert!(matches!(away, ConsumerError::PollInterval { .. }) && away.retriable(), "{away}");
    assert_eq!(told.all("lost"), [0]);
    assert_eq!(next(&mut consumer).await.offset, Offset(0), "what was given was not committed");
    consumer.close().await.unwrap();
}

#[tokio::test]
async fn commits_stay_in_order_and_one_that_fails_moves_nothing_back() {
    let cluster = Cluster::start(1).await;
    fill(&cluster, 1, 100).await;
    let mut config = config();
    config.enable_auto_commit = false;
    let mut consumer = consumer(&cluster, config).await;
    let outcomes: Arc<Mutex<Vec<Result<(), CommitError>>>> = Arc::default();
    for index in 0..100 {
        next(&mut consumer).await;
        if index % 5 == 0 {
            let fault =
                [None, Some(ErrorCode::CoordinatorNotAvailable), Some(ErrorCode::Internal)][index % 3];
            cluster.groups.lock().commit_faults.push_back(fault);
        }
        let outcomes = Arc::clone(&outcomes);
        consumer.commit_async(move |outcome| outcomes.lock().unwrap().push(outcome));
    }
    cluster.groups.lock().commit_faults.clear();
    consumer.commit().await.unwrap();
    assert_eq!(outcomes.lock().unwrap().len(), 100, "each is told, before a later one that is waited for");
    {
        let state = cluster.groups.lock();
        assert_eq!(state.committed(), [(0, 100)].into());
        assert!(state.commits.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{:?}", state.commits);
        assert!(state.commit_calls < 100, "those that wait are one");
    }
    let foreign = consumer.commit_offsets([(at(5), Offset(1).into())]).await.unwrap_err();
    assert!(matches!(&foreign, CommitError::Partitions(refused) if refused.len() == 1), "{foreign}");
    assert_eq!((foreign.code(), foreign.retriable()), (Some(ErrorCode::StaleMemberEpoch), false));
    // Back on purpose.
    consumer.commit_offsets([(at(0), Offset(30).into())]).await.unwrap();
    let known = consumer.committed(&[at(0)]).await.unwrap();
    assert_eq!(known[&at(0)].offset, Offset(30));
    consumer.close().await.unwrap();
}

#[tokio::test]
async fn chunks_seeks_and_pauses_keep_the_position() {
    let cluster = Cluster::start(2).await;
    fill(&cluster, 2, 100).await;
    let mut config = config();
    config.max_chunk_bytes = 300;
    let mut consumer = consumer(&cluster, config).await;
    let chunk = tokio::time::timeout(LONG, consumer.next_chunk()).await.unwrap().unwrap();
    let (this, other) = (chunk.partition.get(), 1 - chunk.partition.get());
    assert_eq!((chunk.first_wanted, consumer.position(&at(this))), (Offset(0), Some(chunk.next_offset)));
    consumer.pause(&[at(this)]);
    assert_eq!(consumer.paused(), [at(this)]);
    for offset in 0..100 {
        let record = next(&mut consumer).await;
        assert_eq!((record.partition.get(), record.offset.get()), (other, offset));
    }
    consumer.resume(&[at(this)]);
    assert_eq!(next(&mut consumer).await.offset, chunk.next_offset, "nothing was lost by the pause");
    // In the middle of a chunk, to a chunk: the rest of it.
    let record = next(&mut consumer).await;
    let rest = consumer.next_chunk().await.unwrap();
    assert_eq!(rest.first_wanted, record.offset.advance(1));
    consumer.seek(&at(this), Start::Offset(Offset(7))).await.unwrap();
    let mut records = Box::pin(consumer.records());
    for offset in 7..100 {
        assert_eq!(records.next().await.unwrap().unwrap().offset, Offset(offset));
    }
    drop(records);
    assert_eq!(consumer.lag(&at(this)), Some(0));
    consumer.close().await.unwrap();
    assert_eq!(cluster.groups.lock().committed(), [(0, 100), (1, 100)].into());
}

#[tokio::test]
async fn a_listener_says_where_to_begin_and_what_to_commit_last() {
    let cluster = Cluster::start(1).await;
    fill(&cluster, 1, 50).await;
    let told = Arc::new(Told::default());
    *told.seek.lock().unwrap() = Some(33);
    *told.commit.lock().unwrap() = Some(17);
    let mut config = config();
    config.listener = Some(Arc::clone(&told) as Arc<dyn RebalanceListener>);
    let mut consumer = consumer(&cluster, config).await;
    assert_eq!(next(&mut consumer).await.offset, Offset(33));
    consumer.unsubscribe().await.unwrap();
    assert_eq!(told.all("revoked"), [0]);
    assert_eq!(cluster.groups.lock().commits, [(0, 34), (0, 17)]);
    assert!(matches!(consumer.next().await, Err(ConsumerError::NotSubscribed)));
    *told.seek.lock().unwrap() = None;
    consumer.subscribe([TOPIC]).unwrap();
    assert_eq!(next(&mut consumer).await.offset, Offset(17));
    consumer.close().await.unwrap();
}

#[tokio::test]
async fn a_static_member_keeps_its_partitions_while_it_is_away_and_has_one_process() {
    let cluster = Cluster::start(2).await;
    fill(&cluster, 2, 10).await;
    let named = || {
        let mut config = config();
        config.instance_id = Some("i".into());
        config
    };
    let mut first = consumer(&cluster, named()).await;
    next(&mut first).await;
    let epoch = cluster.groups.lock().group.epoch;
    // Another process with its name, while it lives.
    let mut twin = consumer(&cluster, named()).await;
    let rejected = error(&mut twin).await;
    assert_eq!((rejected.code(), rejected.is_fatal()), (Some(ErrorCode::FencedInstance), true));
    assert!(error(&mut twin).await.is_fatal(), "again and again");
    drop(twin);
    first.close().await.unwrap();
    let mut second = consumer(&cluster, named()).await;
    next(&mut second).await;
    assert_eq!(second.assignment().len(), 2);
    assert_eq!(cluster.groups.lock().group.epoch, epoch, "nothing moved");
    second.close().await.unwrap();
}

#[derive(Default)]
struct Interceptor {
    committed: Mutex<Vec<i64>>,
}

impl ConsumerInterceptor for Interceptor {
    fn on_consume(&self, records: Vec<ConsumerRecord>) -> Vec<ConsumerRecord> {
        records.into_iter().filter(|record| record.offset.get() % 2 == 0).collect()
    }

    fn on_commit(&self, offsets: &[(TopicPartition, OffsetAndMetadata)]) {
        self.committed.lock().unwrap().extend(offsets.iter().map(|(_, offset)| offset.offset.get()));
    }
}

#[tokio::test]
async fn interceptors_see_records_and_commits_and_values_are_read() {
    let cluster = Cluster::start(1).await;
    fill(&cluster, 1, 10).await;
    let interceptor = Arc::new(Interceptor::default());
    let mut config = config();
    config.interceptors = vec![Arc::clone(&interceptor) as Arc<dyn ConsumerInterceptor>];
    let bytes = consumer(&cluster, config).await;
    let mut typed: TypedConsumer<i64, String> =
        TypedConsumer::new(bytes, serializers::BigEndian, serializers::Utf8);
    for offset in [0, 2, 4] {
        let record = typed.next().await.unwrap();
        assert_eq!((record.key, record.value), (None, Some(format!("0/{offset}"))));
    }
    typed.consumer().commit().await.unwrap();
    assert_eq!(*interceptor.committed.lock().unwrap(), [5]);
    let mut wrong: TypedConsumer<i64, i64> = {
        typed.close().await.unwrap();
        let bytes = consumer(&cluster, self::config()).await;
        TypedConsumer::new(bytes, serializers::BigEndian, serializers::BigEndian)
    };
    let failed = wrong.next().await.unwrap_err();
    assert!(
        matches!(&failed, ConsumerError::Deserialize { offset: Offset(5), part: "value", .. }),
        "{failed}"
    );
    assert!(matches!(wrong.next().await, Err(ConsumerError::Deserialize { offset: Offset(6), .. })));
    wrong.close().await.unwrap();
}

#[tokio::test]
async fn groups_are_looked_after_and_settings_are_checked() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    let admin = client.admin();
    assert_eq!(admin.list_groups(&[]).await.unwrap()[0].group_id, "g");
    assert_eq!(admin.describe_group("g").await.unwrap().group_id, "g");
    assert_eq!(admin.describe_group("x").await.unwrap_err().code(), Some(ErrorCode::UnknownGroup));
    admin.commit_offsets("g", &[(at(0), Offset(3).into())]).await.unwrap();
    admin.delete_group("g").await.unwrap();
    assert!(admin.committed_offsets("g", &[at(0)]).await.unwrap().is_empty());
    let wrong = client.consumer(ConsumerConfig::new("")).err().unwrap();
    assert!(matches!(wrong, ClientError::Config(_)), "{wrong}");
    let mut nothing = client.consumer(config()).unwrap();
    assert!(nothing.subscribe([""; 0]).is_err() && nothing.subscribe(["no/topic"]).is_err());
    assert!(matches!(nothing.next().await, Err(ConsumerError::NotSubscribed)));
    nothing.close().await.unwrap();
}
