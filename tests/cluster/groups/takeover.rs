//! How long a group is without a coordinator. The figures are printed, not judged: `just takeover` asks for many committed offsets
//! and rounds from a release build.

use crate::harness::{Cluster, await_group, eventually, within};
use std::time::{Duration, Instant};
use thalweg_core::group::{GroupId, shard_of};
use thalweg_proto::v1;
use thalweg_proto::v1::group_service_client::GroupServiceClient;
use tonic::transport::Channel;

const GROUP: &str = "served";
const TOPIC: &str = "t";
/// Committed offsets if `THALWEG_GROUP_OFFSETS` does not say.
const OFFSETS: usize = 2_000;
/// Partitions of the topic that they are of.
const PARTITIONS: i32 = 100;
/// Offsets of one commit.
const IN_ONE: usize = 100;

fn number(variable: &str, default: usize) -> usize {
    match std::env::var(variable) {
        Ok(number) => number.parse().unwrap_or_else(|_| panic!("{variable} is a number")),
        Err(_) => default,
    }
}

/// Many groups in one shard, and one of them asks all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn takeover() {
    let mut cluster = Cluster::with_groups();
    let rounds = number("THALWEG_GROUP_KILL_ROUNDS", 1);
    let offsets = number("THALWEG_GROUP_OFFSETS", OFFSETS);
    cluster.create_topic(TOPIC, PARTITIONS.unsigned_abs(), &[]);
    let api = cluster.api(1).await;
    let shard = shard_of(&GroupId::new(GROUP).unwrap(), 8);
    let mut names = (0u64..).map(|n| format!("group-{n}"));
    let begun = Instant::now();
    for first in (0..offsets).step_by(IN_ONE) {
        // Names that fall into the same shard.
        let group = names.find(|name| shard_of(&GroupId::new(name).unwrap(), 8) == shard).unwrap();
        let offset = |partition: i32| v1::OffsetToCommit {
            topic: TOPIC.to_owned(),
            partition: partition % PARTITIONS,
            ..Default::default()
        };
        let count = IN_ONE.min(offsets - first);
        let request = v1::CommitOffsetsRequest {
            group_id: if first == 0 { GROUP.to_owned() } else { group },
            offsets: (0..count as i32).map(offset).collect(),
            ..Default::default()
        };
        let mut groups = api.groups.clone();
        let answer = eventually_committed(&mut groups, request).await;
        assert!(answer.results.iter().all(|result| result.error.is_none()), "{answer:?}");
    }
    println!("{offsets} offsets of one shard committed in {:?}", begun.elapsed());
    let mut times = Vec::new();
    for round in 0..rounds {
        let bootstrap = cluster.bootstrap();
        let serving = tokio::task::spawn_blocking(move || {
            let group = await_group(&bootstrap, GROUP, "served", |group| group["coordinator"]["id"].is_i64());
            i32::try_from(group["coordinator"]["id"].as_i64().unwrap()).unwrap()
        });
        let serving = serving.await.unwrap();
        let mut groups = api.groups.clone();
        let begun = Instant::now();
        cluster.coordinator(serving).kill();
        let request = v1::CommitOffsetsRequest {
            group_id: GROUP.to_owned(),
            offsets: vec![v1::OffsetToCommit {
                topic: TOPIC.to_owned(),
                offset: 1 + round as i64,
                ..Default::default()
            }],
            ..Default::default()
        };
        eventually_committed(&mut groups, request).await;
        times.push(begun.elapsed());
        cluster.coordinator(serving).start();
        let fetch = v1::FetchOffsetsRequest { group_id: GROUP.to_owned(), ..Default::default() };
        let answer = within("FetchOffsets", groups.fetch_offsets(fetch)).await.unwrap().into_inner();
        let known: Vec<i64> = answer.offsets.iter().map(|one| one.offset).collect();
        assert_eq!(known.len(), IN_ONE.min(offsets), "what the former one knew");
        assert_eq!(known[0], 1 + round as i64, "and what was committed since");
    }
    times.sort_unstable();
    let last = times.len() - 1;
    println!(
        "SIGKILL of a group's coordinator, to its next commit, with {offsets} offsets in the shard: p50 {:?}, p99 {:?}, max {:?} of {}",
        times[last / 2],
        times[last * 99 / 100],
        times[last],
        times.len()
    );
    eventually("a coordinator that was killed serves again", || {
        let described = cluster.describe_cluster();
        (described["coordinators"].as_array().is_some_and(|all| all.len() == 2)).then_some(())
    });
}

/// Commits, again and again as a client does, until it is done.
async fn eventually_committed(
    groups: &mut GroupServiceClient<Channel>,
    request: v1::CommitOffsetsRequest,
) -> v1::CommitOffsetsResponse {
    let begun = Instant::now();
    loop {
        match groups.commit_offsets(request.clone()).await {
            Ok(answer) => return answer.into_inner(),
            Err(status) => {
                assert!(begun.elapsed() < Duration::from_secs(60), "no commit for a minute: {status:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
