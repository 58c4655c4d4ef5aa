//! What a consumer group is at the moment, as the command line tells it, and a watch over its committed offsets.

use super::cli::Cli;
use super::cluster::eventually;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use thalweg_proto::v1;
use thalweg_proto::v1::group_service_client::GroupServiceClient;
use tonic::transport::{Channel, Endpoint};

/// How often committed offsets are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long one look may take: what is watched may be frozen.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// A group as `group describe -o json` prints it; none when it cannot be told at the moment.
pub fn group_json(bootstrap: &str, group: &str) -> Option<Value> {
    let output = Cli::new(&["group", "describe", group, "-o", "json", "--bootstrap", bootstrap]).run();
    (output.code == 0).then(|| serde_json::from_slice(&output.stdout).unwrap())
}

/// The partitions of each member, `topic-partition` each, by the member's id.
pub fn assigned(group: &Value) -> BTreeMap<String, Vec<String>> {
    let of_topic = |topic: &Value| -> Vec<String> {
        let name = topic["topic"].as_str().unwrap();
        topic["partitions"].as_array().unwrap().iter().map(|number| format!("{name}-{number}")).collect()
    };
    let of_member = |member: &Value| {
        let partitions = member["assigned"].as_array().unwrap().iter().flat_map(of_topic).collect();
        (member["id"].as_str().unwrap().to_owned(), partitions)
    };
    group["members"].as_array().unwrap().iter().map(of_member).collect()
}

/// Who has each partition.
pub fn owners(group: &Value) -> BTreeMap<String, String> {
    let by_member = assigned(group);
    let each = |(member, partitions): (String, Vec<String>)| {
        partitions.into_iter().map(move |partition| (partition, member.clone())).collect::<Vec<_>>()
    };
    by_member.into_iter().flat_map(each).collect()
}

/// Waits until a group is as wanted.
#[track_caller]
pub fn await_group(bootstrap: &str, group: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = None;
    eventually(&format!("group {group} is {what}"), || {
        last = group_json(bootstrap, group);
        last.clone().filter(|found| wanted(found))
    })
}

/// Waits until a group is stable and its members have so many partitions, the largest share first.
#[track_caller]
pub fn await_sizes(bootstrap: &str, group: &str, sizes: &[usize]) -> Value {
    await_group(bootstrap, group, &format!("stable with {sizes:?} partitions"), |found| {
        let mut found_sizes: Vec<usize> = assigned(found).values().map(Vec::len).collect();
        found_sizes.sort_unstable_by(|a, b| b.cmp(a));
        found["state"] == "stable" && found_sizes == sizes
    })
}

/// Looks at a group's committed offsets all the time: they never go back.
pub struct OffsetWatch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Watched>>,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Watched {
    /// The last offset of each partition.
    pub offsets: BTreeMap<(String, i32), i64>,
    /// Answers that were had.
    pub looks: usize,
}

impl OffsetWatch {
    /// Begins to watch, through any of the brokers.
    pub fn start(bootstrap: &str, group: &str) -> OffsetWatch {
        let stop = Arc::new(AtomicBool::new(false));
        let endpoints: Vec<String> = bootstrap.split(',').map(str::to_owned).collect();
        let (stopped, group) = (Arc::clone(&stop), group.to_owned());
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(watch(&endpoints, &group, &stopped))
        });
        OffsetWatch { stop, thread: Some(thread) }
    }

    /// Ends it. Fails if an offset went back.
    #[track_caller]
    pub fn finish(mut self) -> Watched {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is ended once");
        let watched = thread.join().unwrap_or_else(|why| std::panic::resume_unwind(why));
        assert!(watched.looks > 0, "the committed offsets were never seen");
        watched
    }
}

impl Drop for OffsetWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn watch(endpoints: &[String], group: &str, stopped: &AtomicBool) -> Watched {
    let client = |endpoint: &String| -> GroupServiceClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{endpoint}")).unwrap();
        GroupServiceClient::new(endpoint.connect_timeout(LOOK_TIMEOUT).connect_lazy())
    };
    let mut clients: Vec<_> = endpoints.iter().map(client).collect();
    let mut watched = Watched::default();
    for turn in 0usize.. {
        // The last look is one after the end, so that the offsets are those of the end.
        let last = stopped.load(Ordering::Relaxed);
        let index = turn % clients.len();
        let request = v1::FetchOffsetsRequest { group_id: group.to_owned(), ..Default::default() };
        let answer = tokio::time::timeout(LOOK_TIMEOUT, clients[index].fetch_offsets(request)).await;
        if let Ok(Ok(answer)) = answer {
            watched.looks += 1;
            for committed in answer.into_inner().offsets {
                let partition = (committed.topic, committed.partition);
                let before = watched.offsets.insert(partition.clone(), committed.offset).unwrap_or(0);
                assert!(
                    before <= committed.offset,
                    "group {group}, {partition:?}: {before} was committed, and then {}",
                    committed.offset
                );
            }
            if last {
                return watched;
            }
        }
        if last && turn > 1_000 {
            return watched;
        }
        tokio::time::sleep(LOOK).await;
    }
    watched
}
