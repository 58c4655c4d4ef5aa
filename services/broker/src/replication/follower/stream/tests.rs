use super::*;
use thalweg_core::{PartitionId, TopicId};
use thalweg_log::LogPosition;

const MIB: u64 = 1 << 20;

/// Logs as the stream sees them, by key: end, flushed end, last epoch.
#[derive(Default)]
struct Logs(BTreeMap<u32, (i64, i64, i32)>);

impl Logs {
    fn read(&self, key: u32) -> Followed {
        let (end, flushed, epoch) = self.0.get(&key).copied().unwrap_or_default();
        Followed {
            topic_id: TopicId([1; 16]),
            partition: PartitionId(key as i32),
            at: LogPosition {
                log_start: Offset(0),
                log_end: Offset(end),
                last_epoch: (end > 0).then_some(LeaderEpoch(epoch)),
                flushed: Offset(flushed),
            },
        }
    }
}

fn request(stream: &mut Stream, logs: &Logs, now: Instant) -> ReplicateRequest {
    stream.next_request(now, |key| logs.read(key))
}

fn main_stream(keys: u32) -> Stream {
    let mut stream = Stream::new(Class::Main, FollowerConfig::default(), Pace::new(Some(MIB)));
    (0..keys).for_each(|key| stream.follow(key, LeaderEpoch(1)));
    stream
}

fn took(from: i64, to: i64, bytes: u64, high_watermark: i64) -> Took {
    Took { bytes, from: Offset(from), to: Offset(to), high_watermark: Offset(high_watermark) }
}

#[test]
fn partitions_are_followed_from_where_their_logs_end() {
    let (now, mut stream) = (Instant::now(), main_stream(2));
    let logs = Logs(BTreeMap::from([(0, (10, 7, 3))]));
    assert!(!stream.wants_to_send(now), "there is no connection");
    stream.opened();
    assert!(stream.wants_to_send(now));
    let first = request(&mut stream, &logs, now);
    assert_eq!(first.credit_bytes, 16 * MIB);
    let told: Vec<_> = first.follow.iter().map(|f| (f.slot, f.offset, f.flushed, f.last_epoch)).collect();
    assert_eq!(told, [(0, 10, 7, 3), (1, 0, 0, -1)]);
    assert!(!stream.wants_to_send(now) && stream.deadline(now).is_none(), "an idle partition costs nothing");
    assert_eq!(stream.partition_of(1), Some((1, LeaderEpoch(1))));
    assert_eq!(stream.partition_of(2), None);
}

#[test]
fn positions_are_told_once_after_the_append_and_once_after_the_flush() {
    let (now, mut stream, mut logs) = (Instant::now(), main_stream(1), Logs::default());
    stream.opened();
    request(&mut stream, &logs, now);
    stream.received(100);
    logs.0.insert(0, (5, 0, 1));
    assert_eq!(stream.appended(0, took(0, 5, 100, 5), now), None);
    assert!(stream.wants_to_send(now));
    let said = request(&mut stream, &logs, now);
    assert_eq!((said.positions[0].log_end, said.positions[0].flushed, said.credit_bytes), (5, 0, 100));
    // A mark without news says nothing.
    stream.flushed(0);
    assert!(request::is_empty(&request(&mut stream, &logs, now)));
    assert!(!stream.wants_to_send(now), "or it would turn for ever");
    logs.0.insert(0, (5, 5, 1));
    stream.flushed(0);
    let said = request(&mut stream, &logs, now);
    assert_eq!((said.positions.len(), said.positions[0].flushed), (1, 5));
}

#[test]
fn what_comes_for_a_slot_that_was_left_is_late_but_gives_its_credit_back() {
    let (now, mut stream, logs) = (Instant::now(), main_stream(1), Logs::default());
    stream.opened();
    request(&mut stream, &logs, now);
    stream.follow(0, LeaderEpoch(2));
    assert_eq!(stream.partition_of(0), None, "a new epoch takes a new slot");
    stream.received(5 * MIB);
    let said = request(&mut stream, &logs, now);
    assert_eq!((said.unfollow, said.follow[0].slot, said.follow[0].leader_epoch), (vec![0], 1, 2));
    assert_eq!(said.credit_bytes, 5 * MIB);
    assert_eq!(stream.ended(0, End::Refused, now), None, "nor does an old slot's end mean anything");
    assert!(!stream.wants_to_send(now) && stream.deadline(now).is_none());
    stream.forget(0);
    assert_eq!(request(&mut stream, &logs, now).unfollow, [1]);
    assert!(stream.is_empty());
}

#[test]
fn a_diverging_log_is_mended_before_it_is_followed_again() {
    let (now, mut stream, mut logs) = (Instant::now(), main_stream(1), Logs::default());
    stream.opened();
    logs.0.insert(0, (20, 20, 1));
    request(&mut stream, &logs, now);
    let repair = stream.ended(0, End::Diverging(LeaderEpoch(0), Offset(12)), now);
    assert_eq!(repair, Some(Repair::Cut(LeaderEpoch(0), Offset(12))));
    let said = request(&mut stream, &logs, now);
    assert!(said.unfollow == [0] && said.follow.is_empty(), "it is not followed before the cut");
    stream.flushed(0);
    stream.repaired(0, LeaderEpoch(9), Ok(true), now);
    assert!(!stream.wants_to_send(now), "that was another epoch's repair");
    logs.0.insert(0, (12, 12, 0));
    stream.repaired(0, LeaderEpoch(1), Ok(true), now);
    let said = request(&mut stream, &logs, now);
    assert_eq!((said.follow[0].slot, said.follow[0].offset, said.follow[0].last_epoch), (1, 12, 0));
    // A cut that changes nothing would be answered the same: not at once.
    stream.ended(1, End::Diverging(LeaderEpoch(0), Offset(12)), now);
    stream.repaired(0, LeaderEpoch(1), Ok(false), now);
    request(&mut stream, &logs, now);
    assert!(!stream.wants_to_send(now) && stream.deadline(now) == Some(now + RETRY_MIN));
    assert_eq!(
        {
            stream.tick(now + RETRY_MIN);
            let slot = request(&mut stream, &logs, now).follow[0].slot;
            stream.ended(slot, End::OutOfRange(Offset(40)), now)
        },
        Some(Repair::StartOver(Offset(40)))
    );
}

#[test]
fn refusals_are_repeated_ever_more_slowly_until_the_metadata_changes() {
    let (mut now, mut stream, logs) = (Instant::now(), main_stream(1), Logs::default());
    stream.opened();
    let mut waits = Vec::new();
    for slot in 0..9 {
        request(&mut stream, &logs, now);
        stream.ended(slot, End::Refused, now);
        let at = stream.deadline(now).unwrap();
        waits.push((at - now).as_millis());
        now = at;
        stream.tick(now);
    }
    assert_eq!(waits, [20, 40, 80, 160, 320, 640, 1000, 1000, 1000]);
    request(&mut stream, &logs, now);
    stream.ended(9, End::Refused, now);
    request(&mut stream, &logs, now);
    stream.follow(0, LeaderEpoch(1));
    assert!(!stream.wants_to_send(now), "the same again changes nothing");
    stream.follow(0, LeaderEpoch(2));
    assert!(stream.wants_to_send(now) && stream.deadline(now).is_none());
}

#[test]
fn c12_a_log_that_is_out_of_use_is_followed_no_more() {
    let (now, mut stream, logs) = (Instant::now(), main_stream(2), Logs::default());
    stream.opened();
    request(&mut stream, &logs, now);
    stream.failed(0, Failure::Final, now);
    let said = request(&mut stream, &logs, now);
    assert_eq!(said.unfollow, [0]);
    stream.flushed(0);
    assert!(!stream.wants_to_send(now) && stream.deadline(now).is_none());
    // Nor does a new connection bring it back; a full disk is tried again.
    stream.failed(1, Failure::Later, now);
    stream.closed();
    stream.opened();
    assert!(request(&mut stream, &logs, now).follow.is_empty());
    stream.tick(now + RETRY_MIN);
    assert_eq!(request(&mut stream, &logs, now).follow[0].partition, 1);
    stream.follow(0, LeaderEpoch(1));
    assert_eq!(request(&mut stream, &logs, now).follow[0].partition, 0, "the metadata says so once more");
}

#[test]
fn a_new_connection_follows_everything_anew() {
    let (now, mut stream, mut logs) = (Instant::now(), main_stream(3), Logs::default());
    stream.opened();
    request(&mut stream, &logs, now);
    stream.ended(1, End::Diverging(LeaderEpoch(0), Offset(0)), now);
    stream.forget(2);
    stream.closed();
    stream.opened();
    logs.0.insert(0, (8, 8, 1));
    let said = request(&mut stream, &logs, now);
    // A new connection has nothing to let go of.
    assert!(said.unfollow.is_empty() && said.positions.is_empty());
    let told: Vec<_> = said.follow.iter().map(|f| (f.slot, f.partition, f.offset)).collect();
    assert_eq!(told, [(0, 0, 8)], "what is being mended waits");
    assert_eq!(said.credit_bytes, 16 * MIB);
    stream.repaired(1, LeaderEpoch(1), Ok(true), now);
    assert_eq!(request(&mut stream, &logs, now).follow[0].slot, 1);
}

#[test]
fn ten_thousand_partitions_are_told_in_pieces() {
    let (now, mut stream, logs) = (Instant::now(), main_stream(10_000), Logs::default());
    stream.opened();
    let mut followed = 0;
    while stream.wants_to_send(now) {
        let said = request(&mut stream, &logs, now);
        assert!(said.follow.len() <= MAX_ITEMS);
        followed += said.follow.len();
    }
    assert_eq!(followed, 10_000);
}

#[test]
fn a_partition_far_behind_goes_to_the_catch_up_stream_and_back_when_it_is_near() {
    let (now, logs) = (Instant::now(), Logs::default());
    let mut stream = main_stream(1);
    stream.opened();
    request(&mut stream, &logs, now);
    // A thousand records in a MiB, and 200,000 more to come; then 300,000.
    assert_eq!(stream.appended(0, took(0, 1_000, MIB, 200_000), now), None);
    assert_eq!(stream.appended(0, took(1_000, 2_000, MIB, 302_000), now), Some(Class::CatchUp));
    let mut stream = Stream::new(Class::CatchUp, FollowerConfig::default(), Pace::new(None));
    stream.follow(0, LeaderEpoch(1));
    stream.opened();
    request(&mut stream, &logs, now);
    assert_eq!(stream.appended(0, took(0, 1_000, MIB, 50_000), now), None);
    assert_eq!(stream.appended(0, took(1_000, 2_000, MIB, 18_000), now), Some(Class::Main));
}

#[test]
fn catching_up_is_paced_and_goes_faster_if_it_comes_no_nearer() {
    let (start, logs) = (Instant::now(), Logs::default());
    let mut now = start;
    let mut stream = Stream::new(Class::CatchUp, FollowerConfig::default(), Pace::new(Some(10 * MIB)));
    stream.follow(0, LeaderEpoch(1));
    stream.opened();
    let (mut given, mut at, mut rates) = (0, 0, Vec::new());
    for second in 1..=12 {
        let before = given;
        while now < start + Duration::from_secs(second) {
            let said = request(&mut stream, &logs, now);
            given += said.credit_bytes;
            // Whatever there is credit for comes, and producers write as much again and more.
            stream.received(said.credit_bytes);
            if said.credit_bytes > 0 {
                let more = (said.credit_bytes / 1024) as i64;
                stream.appended(0, took(at, at + more, said.credit_bytes, 1_000_000 + 3 * at), now);
                at += more;
            }
            now = stream
                .deadline(now)
                .unwrap_or(now + Duration::from_millis(1))
                .max(now + Duration::from_millis(1));
        }
        rates.push((given - before) / MIB);
    }
    assert!(rates[1..5].iter().all(|rate| (9..=11).contains(rate)), "{rates:?}");
    assert!(rates[6..9].iter().all(|rate| (18..=22).contains(rate)), "{rates:?}");
    assert!(rates[11] >= 36, "{rates:?}");
}

#[test]
fn the_leader_is_told_to_let_go_of_a_slot_that_it_ended() {
    let (now, mut stream, logs) = (Instant::now(), main_stream(2), Logs::default());
    stream.opened();
    request(&mut stream, &logs, now);
    stream.ended(0, End::Refused, now);
    stream.ended(0, End::Refused, now);
    stream.forget(0);
    assert!(stream.wants_to_send(now));
    assert_eq!(request(&mut stream, &logs, now).unfollow, [0], "once, although the partition is gone");
}
