//! Subscribe: a member's life on one stream.

use crate::group::{Setting, client, setting, subscription};
use crate::harness::*;
use bytes::Bytes;
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_core::batch::BatchIter;
use thalweg_proto::v1;
use thalweg_proto::v1::partition_data::Data;
use thalweg_proto::v1::subscribe_request::Command;
use thalweg_proto::v1::subscribe_response::Event;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

struct Member {
    commands: Option<mpsc::Sender<v1::SubscribeRequest>>,
    events: Streaming<v1::SubscribeResponse>,
}

fn options(member: &str) -> v1::MemberOptions {
    v1::MemberOptions {
        group_id: "g".into(),
        member_id: member.into(),
        subscription: Some(subscription(&["t"])),
        offset_reset: v1::OffsetReset::Earliest as i32,
        ..Default::default()
    }
}

fn start(options: v1::MemberOptions) -> v1::SubscribeStart {
    v1::SubscribeStart { options: Some(options), max_chunk_bytes: Some(1), ..Default::default() }
}

impl Member {
    async fn open(cluster: &Cluster) -> Member {
        let (commands, queued) = mpsc::channel(16);
        let events = client(cluster).subscribe(ReceiverStream::new(queued)).await.unwrap().into_inner();
        Member { commands: Some(commands), events }
    }

    async fn start(cluster: &Cluster, start: v1::SubscribeStart) -> Member {
        let member = Member::open(cluster).await;
        member.say(Command::Start(start)).await;
        member
    }

    /// One that is in the group and has that many partitions, with credit for everything.
    async fn joined(cluster: &Cluster, member: &str, partitions: usize) -> Member {
        let mut member = Member::start(cluster, start(options(member))).await;
        let Event::Joined(joined) = member.next().await else { panic!() };
        assert!(joined.member_epoch > 0);
        let mut assigned = 0;
        while assigned < partitions {
            assigned += member.assigned().await.len();
        }
        member.credit(1 << 30, None).await;
        member
    }

    async fn say(&self, command: Command) {
        self.say_having(None, command).await;
    }

    /// Says also how many messages of records it has dealt with.
    async fn say_having(&self, dealt_with: Option<u64>, command: Command) {
        let request = v1::SubscribeRequest { command: Some(command), dealt_with };
        self.commands.as_ref().unwrap().send(request).await.unwrap();
    }

    async fn credit(&self, bytes: u64, records: Option<u64>) {
        self.say(Command::Credit(v1::FetchStreamCredit { bytes, records })).await;
    }

    async fn commit(&self, commit_id: u64, offsets: Vec<v1::OffsetToCommit>) {
        self.say(Command::Commit(v1::SubscribeCommit { commit_id, offsets, member_epoch: None })).await;
    }

    /// Commits, and is told what became of it.
    async fn commits(&mut self, commit: v1::SubscribeCommit) -> v1::SubscribeCommitted {
        self.say(Command::Commit(commit)).await;
        loop {
            match self.next().await {
                Event::Committed(committed) => return committed,
                Event::Records(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn seek(&self, partition: i32, offset: i64) {
        let positions = vec![v1::PartitionPosition { topic: "t".into(), partition, offset }];
        self.say(Command::Seek(v1::SubscribeSeek { positions })).await;
    }

    async fn message(&mut self) -> Result<Option<Event>, Status> {
        loop {
            match tokio::time::timeout(LONG, self.events.message()).await.expect("an event in time")? {
                None => return Ok(None),
                Some(message) => match message.event.unwrap() {
                    Event::Heartbeat(_) => {}
                    event => return Ok(Some(event)),
                },
            }
        }
    }

    async fn next(&mut self) -> Event {
        self.message().await.unwrap().expect("the stream goes on")
    }

    async fn assigned(&mut self) -> Vec<(i32, i64)> {
        let Event::Assigned(assigned) = self.next().await else { panic!() };
        assigned.partitions.iter().map(|partition| (partition.partition, partition.offset)).collect()
    }

    async fn records(&mut self) -> v1::PartitionData {
        match self.next().await {
            Event::Records(data) => data,
            other => panic!("{other:?}"),
        }
    }

    async fn value(&mut self) -> String {
        value(&self.records().await)
    }

    async fn is_silent(&mut self) -> bool {
        let quiet = Duration::from_millis(50);
        match tokio::time::timeout(quiet, self.events.message()).await {
            Err(_) => true,
            Ok(message) => matches!(message.unwrap().unwrap().event, Some(Event::Heartbeat(_))),
        }
    }

    async fn end(&mut self) -> Result<(), ErrorCode> {
        loop {
            match self.message().await {
                Ok(None) => return Ok(()),
                Ok(Some(_)) => {}
                Err(status) => return Err(api_error(&status).code),
            }
        }
    }
}

fn value(data: &v1::PartitionData) -> String {
    let text = |value: Option<Bytes>| String::from_utf8(value.unwrap().to_vec()).unwrap();
    match data.data.as_ref().unwrap_or_else(|| panic!("{data:?}")) {
        Data::Records(set) => set.records.iter().map(|record| text(record.value.clone())).collect(),
        Data::RecordBatches(bytes) => {
            let mut all = String::new();
            for batch in BatchIter::new(bytes) {
                for record in batch.unwrap().records(&mut Vec::new(), 1 << 20).unwrap() {
                    all.push_str(&text(record.unwrap().value.map(Bytes::copy_from_slice)));
                }
            }
            all
        }
    }
}

async fn fill(cluster: &Cluster, partition: i32, values: &[&str]) {
    for value in values {
        cluster.produce(produce_batch("t", partition, batch(&[value]), v1::Acks::All)).await.unwrap();
    }
}

fn offset(partition: i32, offset: i64) -> v1::OffsetToCommit {
    v1::OffsetToCommit { topic: "t".into(), partition, offset, ..Default::default() }
}

fn place(partition: i32) -> Vec<v1::TopicPartitions> {
    vec![v1::TopicPartitions { topic: "t".into(), partitions: vec![partition], ..Default::default() }]
}

async fn with_topic(partitions: i32) -> Setting {
    let setting = setting(1).await;
    setting.cluster.topic("t", partitions, &[]).await;
    setting
}

#[tokio::test]
async fn records_come_by_credit_and_commits_are_answered() {
    let Setting { cluster, groups, .. } = &with_topic(1).await;
    fill(cluster, 0, &["a", "b", "c"]).await;
    let mut member = Member::start(cluster, start(options("m"))).await;
    let Event::Joined(joined) = member.next().await else { panic!() };
    assert_eq!(joined.member_id, "m");
    assert_eq!(member.assigned().await, [(0, 0)]);
    assert!(member.is_silent().await, "no credit yet");
    member.credit(1 << 20, Some(1)).await;
    assert_eq!(member.value().await, "a");
    assert!(member.is_silent().await, "no records left");
    member.credit(0, None).await;
    assert_eq!((member.value().await, member.value().await), ("b".into(), "c".into()));
    member.commit(7, vec![offset(0, 2)]).await;
    let Event::Committed(committed) = member.next().await else { panic!() };
    assert_eq!((committed.commit_id, committed.failures.len(), committed.error), (7, 0, None));
    assert_eq!(groups.committed("g", "t", 0), 2);
    // Everything that was handed out.
    member.commit(8, vec![]).await;
    let Event::Committed(committed) = member.next().await else { panic!() };
    assert_eq!((committed.commit_id, groups.committed("g", "t", 0)), (8, 3));
    member.commit(9, vec![offset(5, 1)]).await;
    let Event::Committed(committed) = member.next().await else { panic!() };
    assert_eq!(committed.failures[0].error.as_ref().unwrap().code(), v1::ErrorCode::StaleMemberEpoch);
    // Goodbye: it leaves, and whoever comes goes on behind it.
    member.commands = None;
    assert_eq!(member.end().await, Ok(()));
    assert!(groups.members("g").is_empty());
    let mut next = Member::start(cluster, start(options("n"))).await;
    assert!(matches!(next.next().await, Event::Joined(_)));
    assert_eq!(next.assigned().await, [(0, 3)]);
}

#[tokio::test]
async fn batches_come_as_they_are_stored() {
    let Setting { cluster, .. } = &with_topic(1).await;
    let large = "x".repeat(100_000);
    fill(cluster, 0, &["a", &large]).await;
    let format = v1::RecordFormat::Batches as i32;
    let options = v1::MemberOptions { format, ..options("m") };
    let mut member = Member::start(cluster, start(options)).await;
    member.credit(1 << 20, None).await;
    assert!(matches!(member.next().await, Event::Joined(_)));
    assert_eq!(member.assigned().await.len(), 1);
    assert_eq!((member.value().await, member.value().await), ("a".into(), large));
}

#[tokio::test]
async fn a_stream_pauses_resumes_and_seeks_exactly() {
    let Setting { cluster, .. } = &with_topic(2).await;
    fill(cluster, 0, &["a", "b", "c"]).await;
    let mut member = Member::joined(cluster, "m", 2).await;
    for expected in ["a", "b", "c"] {
        let data = member.records().await;
        assert_eq!((value(&data).as_str(), data.tag), (expected, 0));
    }
    member.say(Command::Pause(v1::SubscribePause { partitions: place(0) })).await;
    fill(cluster, 0, &["d"]).await;
    fill(cluster, 1, &["other"]).await;
    assert_eq!(member.value().await, "other");
    // A seek in a paused partition counts when it goes on.
    member.seek(0, 1).await;
    assert!(member.is_silent().await);
    member.say(Command::Resume(v1::SubscribeResume { partitions: place(0) })).await;
    for expected in ["b", "c", "d"] {
        let data = member.records().await;
        assert_eq!((value(&data).as_str(), data.tag), (expected, 1));
    }
    member.seek(0, 3).await;
    let data = member.records().await;
    assert_eq!((value(&data).as_str(), data.tag), ("d", 2));
    // Outside the log: from where the reset says.
    member.seek(0, 77).await;
    assert_eq!(member.value().await, "a");
    // What it does not have is told, and harms nothing.
    member.say(Command::Pause(v1::SubscribePause { partitions: place(9) })).await;
    member.seek(9, 0).await;
    let failed = loop {
        let data = member.records().await;
        if let Some(error) = data.error {
            break error;
        }
    };
    assert_eq!(failed.code(), v1::ErrorCode::StaleMemberEpoch);
}

#[tokio::test]
async fn a_partition_moves_when_it_is_given_back() {
    let Setting { cluster, groups, .. } = &with_topic(2).await;
    let mut first = Member::joined(cluster, "a", 2).await;
    fill(cluster, 0, &["a0"]).await;
    fill(cluster, 1, &["a1"]).await;
    assert_eq!(first.value().await.len() + first.value().await.len(), 4);
    let mut second = Member::start(cluster, start(options("b"))).await;
    assert!(matches!(second.next().await, Event::Joined(_)));
    second.credit(1 << 30, None).await;
    let Event::Revoke(revoke) = first.next().await else { panic!() };
    let gone = revoke.partitions[0].partitions[0];
    assert!(revoke.timeout_ms > 0 && revoke.partitions[0].topic == "t");
    fill(cluster, gone, &["late"]).await;
    assert!(first.is_silent().await, "its records have stopped");
    assert!(second.is_silent().await, "and nobody else has them yet");
    // What is committed before counts before it moves.
    first.commit(1, vec![offset(gone, 1)]).await;
    first.say(Command::Revoked(v1::SubscribeRevoked { revocation_id: revoke.revocation_id })).await;
    assert!(matches!(first.next().await, Event::Committed(_)));
    assert_eq!(second.assigned().await, [(gone, 1)]);
    assert_eq!(second.value().await, "late");
    // It leaves: the other gets it.
    second.commit(1, vec![]).await;
    assert!(matches!(second.next().await, Event::Committed(_)));
    second.commands = None;
    assert_eq!(second.end().await, Ok(()));
    assert_eq!(first.assigned().await, [(gone, 2)]);
    assert_eq!(groups.members("g"), ["a"]);
}

#[tokio::test]
async fn what_is_not_given_back_in_time_is_taken() {
    let Setting { cluster, .. } = &with_topic(2).await;
    let hasty = v1::SubscribeStart { revoke_timeout_ms: Some(50), ..start(options("a")) };
    let mut first = Member::start(cluster, hasty).await;
    assert!(matches!(first.next().await, Event::Joined(_)));
    assert_eq!(first.assigned().await.len(), 2);
    let mut second = Member::start(cluster, start(options("b"))).await;
    assert!(matches!(second.next().await, Event::Joined(_)));
    assert!(matches!(first.next().await, Event::Revoke(_)));
    let Event::Lost(lost) = first.next().await else { panic!() };
    assert_eq!(lost.partitions[0].partitions.len(), 1);
    assert_eq!(lost.error.unwrap().code(), v1::ErrorCode::StaleMemberEpoch);
    assert_eq!(second.assigned().await.len(), 1);
}

#[tokio::test]
async fn who_is_put_out_loses_everything_and_joins_anew() {
    let Setting { cluster, groups, .. } = &with_topic(1).await;
    fill(cluster, 0, &["a"]).await;
    let mut member = Member::joined(cluster, "m", 1).await;
    assert_eq!(member.value().await, "a");
    groups.put_out("g", "m");
    let Event::Lost(lost) = member.next().await else { panic!() };
    assert_eq!(
        lost.partitions,
        [v1::TopicPartitions { topic_id: lost.partitions[0].topic_id.clone(), ..place(0).remove(0) }]
    );
    assert_eq!(lost.error.unwrap().code(), v1::ErrorCode::UnknownMember);
    assert!(matches!(member.next().await, Event::Joined(_)));
    assert_eq!(member.assigned().await, [(0, 0)], "nothing was committed");
    assert_eq!(member.value().await, "a");
}

#[tokio::test]
async fn a_broken_stream_leaves_the_member_and_a_new_one_goes_on() {
    let Setting { cluster, groups, .. } = &with_topic(1).await;
    let member = Member::joined(cluster, "m", 1).await;
    drop(member);
    let mut again = Member::joined(cluster, "m", 1).await;
    assert_eq!(groups.members("g"), ["m"]);
    // A third one beside the second takes over.
    let mut third = Member::joined(cluster, "m", 1).await;
    assert_eq!(again.end().await, Err(ErrorCode::FencedMemberEpoch));
    fill(cluster, 0, &["a"]).await;
    assert_eq!(third.value().await, "a");
}

#[tokio::test]
async fn a_client_that_does_not_read_keeps_its_place() {
    let Setting { cluster, groups, .. } = &with_topic(1).await;
    let large = "x".repeat(500_000);
    for _ in 0..20 {
        fill(cluster, 0, &[&large]).await;
    }
    let mut member = Member::joined(cluster, "m", 1).await;
    // What was sent fills the windows and the few messages ahead, and nothing more is read.
    groups.put_out("g", "m");
    groups.until("a second life", |groups| groups.members("g") == ["m"]).await;
    let mut read = 0;
    loop {
        match member.next().await {
            Event::Records(_) => read += 1,
            Event::Lost(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(read < 20, "all of it was sent ahead");
    assert!(matches!(member.next().await, Event::Joined(_)));
    assert_eq!(member.assigned().await, [(0, 0)]);
}

#[tokio::test]
async fn who_does_not_come_back_for_records_is_out_until_it_does() {
    let Setting { cluster, groups, .. } = &with_topic(1).await;
    let quick = v1::MemberOptions { max_poll_interval_ms: Some(1_000), ..options("m") };
    let mut member = Member::start(cluster, start(quick)).await;
    assert!(matches!(member.next().await, Event::Joined(_)));
    member.assigned().await;
    member.credit(1 << 20, None).await;
    fill(cluster, 0, &["a"]).await;
    assert_eq!(member.value().await, "a");
    let Event::Lost(lost) = member.next().await else { panic!() };
    assert_eq!((lost.partitions.len(), lost.error.unwrap().code()), (1, v1::ErrorCode::UnknownMember));
    groups.until("its goodbye", |groups| groups.members("g").is_empty()).await;
    member.say(Command::Alive(v1::SubscribeAlive {})).await;
    assert!(matches!(member.next().await, Event::Joined(_)));
    assert_eq!(member.assigned().await, [(0, 0)]);
}

#[tokio::test]
async fn a_member_outlives_its_coordinator() {
    let Setting { cluster, groups, coordinator } = &with_topic(1).await;
    let mut member = Member::joined(cluster, "m", 1).await;
    fill(cluster, 0, &["a"]).await;
    assert_eq!(member.value().await, "a");
    let _second = groups.coordinator(2).await;
    coordinator.kill();
    member.commit(1, vec![offset(0, 1)]).await;
    let Event::Committed(committed) = member.next().await else { panic!() };
    assert_eq!((committed.commit_id, committed.error, committed.failures.len()), (1, None, 0));
    fill(cluster, 0, &["b"]).await;
    assert_eq!(member.value().await, "b");
}

#[tokio::test]
async fn an_automatic_commit_takes_what_was_dealt_with_and_no_more() {
    let Setting { cluster, groups, .. } = &with_topic(1).await;
    fill(cluster, 0, &["a", "b", "c"]).await;
    let auto = v1::MemberOptions { auto_commit_interval_ms: Some(20), ..options("m") };
    let mut member = Member::start(cluster, start(auto)).await;
    assert!(matches!(member.next().await, Event::Joined(_)));
    member.assigned().await;
    groups.until("its beginning", |groups| groups.committed("g", "t", 0) == 0).await;
    member.credit(1 << 20, None).await;
    for expected in ["a", "b", "c"] {
        assert_eq!(member.value().await, expected);
    }
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(groups.committed("g", "t", 0), 0, "it has said nothing of them");
    let commands = member.commands.clone().unwrap();
    let alive = Some(Command::Alive(v1::SubscribeAlive {}));
    commands.send(v1::SubscribeRequest { command: alive.clone(), dealt_with: Some(2) }).await.unwrap();
    groups.until("two", |groups| groups.committed("g", "t", 0) == 2).await;
    commands.send(v1::SubscribeRequest { command: alive, dealt_with: Some(3) }).await.unwrap();
    drop(commands);
    member.commands = None;
    assert_eq!(member.end().await, Ok(()));
    assert_eq!(groups.committed("g", "t", 0), 3, "the last word counts too");
}

#[tokio::test]
async fn words_that_say_nothing_of_records_commit_none() {
    let Setting { cluster, groups, .. } = &with_topic(1).await;
    fill(cluster, 0, &["a", "b", "c"]).await;
    let auto = v1::MemberOptions { auto_commit_interval_ms: Some(20), ..options("m") };
    let mut member = Member::start(cluster, start(auto)).await;
    assert!(matches!(member.next().await, Event::Joined(_)));
    member.assigned().await;
    groups.until("its beginning", |groups| groups.committed("g", "t", 0) == 0).await;
    member.credit(1 << 20, None).await;
    for expected in ["a", "b", "c"] {
        assert_eq!(member.value().await, expected);
    }
    member.say(Command::Alive(v1::SubscribeAlive {})).await;
    member.say(Command::Pause(v1::SubscribePause { partitions: place(0) })).await;
    member.say(Command::Resume(v1::SubscribeResume { partitions: place(0) })).await;
    tokio::time::sleep(Duration::from_millis(80)).await;
    assert_eq!(groups.committed("g", "t", 0), 0, "it may be working on all of them");
    // What it names counts, and is not taken back by the next automatic commit.
    let commit = v1::SubscribeCommit { commit_id: 1, offsets: vec![offset(0, 2)], member_epoch: None };
    assert_eq!(member.commits(commit).await.failures, []);
    tokio::time::sleep(Duration::from_millis(80)).await;
    assert_eq!(groups.committed("g", "t", 0), 2);
    let all = v1::SubscribeCommit { commit_id: 2, ..Default::default() };
    assert_eq!(member.commits(all).await.failures, []);
    assert_eq!(groups.committed("g", "t", 0), 3);
}

#[tokio::test]
async fn what_a_client_that_counts_has_not_dealt_with_is_the_next_ones() {
    let Setting { cluster, .. } = &with_topic(2).await;
    for partition in 0..2 {
        fill(cluster, partition, &["a", "b"]).await;
    }
    let auto = v1::MemberOptions { auto_commit_interval_ms: Some(20), ..options("a") };
    let mut first = Member::start(cluster, start(auto)).await;
    assert!(matches!(first.next().await, Event::Joined(_)));
    assert_eq!(first.assigned().await.len(), 2);
    first.say_having(Some(0), Command::Credit(v1::FetchStreamCredit { bytes: 1 << 20, records: None })).await;
    for _ in 0..4 {
        first.value().await;
    }
    let mut second = Member::start(cluster, start(options("b"))).await;
    assert!(matches!(second.next().await, Event::Joined(_)));
    let Event::Revoke(revoke) = first.next().await else { panic!() };
    let gone = revoke.partitions[0].partitions[0];
    let revoked = v1::SubscribeRevoked { revocation_id: revoke.revocation_id };
    first.say_having(Some(0), Command::Revoked(revoked)).await;
    assert_eq!(second.assigned().await, [(gone, 0)], "sent, and not dealt with");
}

#[tokio::test]
async fn a_commit_of_an_earlier_assignment_does_not_go_back_behind_the_present_one() {
    let Setting { cluster, groups, .. } = &with_topic(1).await;
    fill(cluster, 0, &["a", "b", "c"]).await;
    let mut member = Member::joined(cluster, "m", 1).await;
    let at =
        |commit_id, to| v1::SubscribeCommit { commit_id, offsets: vec![offset(0, to)], member_epoch: None };
    assert_eq!(member.commits(at(1, 2)).await.failures, []);
    groups.put_out("g", "m");
    let lost = loop {
        match member.next().await {
            Event::Lost(lost) => break lost,
            Event::Records(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(lost.partitions.len(), 1);
    let Event::Joined(joined) = member.next().await else { panic!() };
    assert_eq!(member.assigned().await, [(0, 2)]);
    let stale = |committed: v1::SubscribeCommitted| {
        assert_eq!(committed.error, None);
        committed.failures[0].error.as_ref().unwrap().code() == v1::ErrorCode::StaleMemberEpoch
    };
    assert!(stale(member.commits(at(2, 1)).await), "of its former life");
    assert_eq!(groups.committed("g", "t", 0), 2);
    assert_eq!(member.commits(at(3, 3)).await.failures, []);
    // Who seeks means it.
    member.seek(0, 0).await;
    assert_eq!(member.commits(at(4, 1)).await.failures, []);
    assert_eq!(groups.committed("g", "t", 0), 1);
    // It may say what assignment it speaks of.
    let epoch = |commit_id, epoch| v1::SubscribeCommit { member_epoch: Some(epoch), ..at(commit_id, 3) };
    assert!(joined.member_epoch > 1);
    assert!(stale(member.commits(epoch(5, joined.member_epoch - 1)).await));
    let later = member.commits(epoch(6, joined.member_epoch + 50)).await;
    assert_eq!(later.error.unwrap().code(), v1::ErrorCode::FencedMemberEpoch);
    assert_eq!(groups.committed("g", "t", 0), 1);
    assert_eq!(member.commits(epoch(7, joined.member_epoch)).await.failures, []);
    assert_eq!(groups.committed("g", "t", 0), 3);
    member.say(Command::Commit(epoch(8, 0))).await;
    let error = loop {
        match member.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!(),
            Err(status) => break api_error(&status),
        }
    };
    assert_eq!(error.field.as_deref(), Some("commit.member_epoch"));
}

#[tokio::test]
async fn other_topics_may_be_wanted_and_idle_members_are_told() {
    let Setting { cluster, .. } = &with_topic(1).await;
    cluster.topic("u", 1, &[]).await;
    let mut member = Member::joined(cluster, "a", 1).await;
    member.say(Command::Subscription(subscription(&["u"]))).await;
    let (mut revoked, mut assigned) = (false, false);
    while !(revoked && assigned) {
        match member.next().await {
            Event::Revoke(revoke) => {
                revoked = true;
                member
                    .say(Command::Revoked(v1::SubscribeRevoked { revocation_id: revoke.revocation_id }))
                    .await;
            }
            Event::Assigned(new) => {
                assert_eq!(new.partitions[0].topic, "u");
                assigned = true;
            }
            other => panic!("{other:?}"),
        }
    }
    let wish = v1::MemberOptions { subscription: Some(subscription(&["u"])), ..options("b") };
    let mut idle = Member::start(cluster, start(wish)).await;
    let standing = loop {
        let message = tokio::time::timeout(LONG, idle.events.message()).await.unwrap().unwrap().unwrap();
        if let Some(Event::Heartbeat(standing)) = message.event {
            break standing;
        }
    };
    assert_eq!(standing.partitions, 0);
}

#[tokio::test]
async fn bad_streams_are_refused_by_name() {
    let Setting { cluster, .. } = &with_topic(1).await;
    let field = |error: Result<Option<Event>, Status>| api_error(&error.unwrap_err()).field.unwrap();
    let mut early = Member::open(cluster).await;
    early.credit(1, None).await;
    assert_eq!(field(early.message().await), "start");
    for (start, wrong) in [
        (v1::SubscribeStart { options: None, ..start(options("m")) }, "start.options"),
        (start(v1::MemberOptions { group_id: String::new(), ..options("m") }), "start.options.group_id"),
        (v1::SubscribeStart { max_chunk_bytes: Some(0), ..start(options("m")) }, "start.max_chunk_bytes"),
        (v1::SubscribeStart { revoke_timeout_ms: Some(0), ..start(options("m")) }, "start.revoke_timeout_ms"),
    ] {
        assert_eq!(field(Member::start(cluster, start).await.message().await), wrong);
    }
    let wrong = |command| async {
        let mut member = Member::joined(cluster, "m", 1).await;
        member.say(command).await;
        field(member.message().await)
    };
    assert_eq!(wrong(Command::Start(start(options("m")))).await, "start");
    assert_eq!(wrong(Command::Commit(v1::SubscribeCommit::default())).await, "commit.commit_id");
    let negative = v1::PartitionPosition { topic: "t".into(), partition: 0, offset: -1 };
    let seek = v1::SubscribeSeek { positions: vec![negative] };
    assert_eq!(wrong(Command::Seek(seek)).await, "seek.positions.offset");
    assert_eq!(wrong(Command::Subscription(subscription(&[]))).await, "subscription.topics");
    // A static member's name is taken.
    let named = |member: &str| v1::MemberOptions { instance_id: "i".into(), ..options(member) };
    let mut first = Member::start(cluster, start(named("a"))).await;
    assert!(matches!(first.next().await, Event::Joined(_)));
    assert_eq!(Member::start(cluster, start(named("b"))).await.end().await, Err(ErrorCode::FencedInstance));
}
