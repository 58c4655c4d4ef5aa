//! The member alone, answered by hand.

use super::*;
use crate::ErrorCode;
use crate::group::assignor::TopicIdPartition;
use crate::{PartitionId, TopicId, TopicName};

const SESSION: Duration = Duration::from_secs(10);
const REBALANCE: Duration = Duration::from_secs(20);

fn set(list: &[i32]) -> Partitions {
    let at = |n: &i32| TopicIdPartition { topic: TopicId([1; 16]), partition: PartitionId(*n) };
    list.iter().map(at).collect()
}

fn s(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn wish(topic: &str) -> Subscription {
    Subscription { topics: [TopicName::new(topic).unwrap()].into(), ..Subscription::default() }
}

fn timeouts() -> Timeouts {
    Timeouts { session: SESSION, rebalance: REBALANCE, answer: s(1.0), ..Timeouts::default() }
}

fn member_of(instance: Option<&str>) -> Membership {
    let timeouts = timeouts();
    let instance = instance.map(|name| InstanceId::new(name).unwrap());
    Membership::new(MemberId::new("m").unwrap(), instance, wish("t"), timeouts, Duration::ZERO)
}

fn sent(member: &mut Membership, now: f64) -> Outgoing {
    match member.poll(s(now)) {
        Some(Event::Send(beat)) => beat,
        other => panic!("{other:?} instead of a heartbeat"),
    }
}

fn answer(epoch: i32, assignment: Option<&[i32]>) -> Result<Answer, Refusal> {
    Ok(Answer { epoch: MemberEpoch(epoch), assignment: assignment.map(set), step: None, interval: s(3.0) })
}

fn refused(code: ErrorCode) -> Result<Answer, Refusal> {
    Err(Refusal::new(code, "no"))
}

/// One that has these at epoch 1, whose coordinator knows, and whose heartbeat was sent and answered at `now`.
fn member_with(list: &[i32], now: f64) -> Membership {
    let mut member = member_of(None);
    let join = sent(&mut member, now);
    member.answered(join.number, answer(1, Some(list)), s(now));
    assert_eq!(member.poll(s(now)), Some(Event::Assigned(set(list))));
    let told = sent(&mut member, now);
    assert_eq!(told.has, Some(set(list)));
    member.answered(told.number, answer(1, Some(list)), s(now));
    assert_eq!(member.poll(s(now)), None);
    member
}

#[test]
fn a_member_joins_with_everything_and_then_says_only_what_is_new() {
    let mut member = member_of(None);
    let join = sent(&mut member, 0.0);
    assert_eq!(
        (join.epoch, &join.subscription, &join.has),
        (MemberEpoch::JOIN, &Some(wish("t")), &Some(set(&[])))
    );
    assert_eq!(member.poll(s(0.1)), None, "one is under way");
    // No assignment was made yet: it asks again soon.
    member.answered(join.number, answer(0, Some(&[])), s(0.1));
    assert_eq!(member.poll(s(0.1)), None);
    let again = sent(&mut member, 0.2);
    assert_eq!(again.subscription, Some(wish("t")));
    member.answered(again.number, answer(3, Some(&[])), s(0.3));
    assert!(member.is_joined());
    let held = sent(&mut member, 0.3);
    assert_eq!((held.epoch, held.subscription, held.has), (MemberEpoch(3), None, None));
    member.answered(held.number, answer(3, Some(&[1])), s(2.0));
    assert_eq!(member.poll(s(2.0)), Some(Event::Assigned(set(&[1]))));
    assert_eq!(sent(&mut member, 2.0).has, Some(set(&[1])));
    // It wants something else: that does not wait for the held answer.
    member.subscribe(wish("u"), s(2.1));
    let changed = sent(&mut member, 2.1);
    assert_eq!((changed.subscription, changed.has), (Some(wish("u")), Some(set(&[1]))));
    member.answered(changed.number, answer(3, None), s(2.2));
    assert_eq!(
        member.poll(s(2.2)),
        None,
        "a quick answer without news is not followed by another question at once"
    );
    assert_eq!(member.next_wake(), Some(s(2.1 + 3.0)));
    let quiet = sent(&mut member, 5.1);
    assert_eq!((quiet.subscription, quiet.has), (None, None));
}

#[test]
fn a_revocation_is_acknowledged_when_the_shell_is_done_with_it() {
    let mut member = member_with(&[1, 2, 3], 0.0);
    let beat = sent(&mut member, 3.0);
    member.answered(beat.number, answer(1, Some(&[1, 2])), s(4.0));
    let until = s(3.0) + REBALANCE - s(1.0);
    assert_eq!(member.poll(s(4.0)), Some(Event::Revoke { partitions: set(&[3]), until }));
    let meanwhile = sent(&mut member, 4.0);
    assert_eq!((meanwhile.has, member.has()), (None, &set(&[1, 2, 3])));
    member.gave_back(&set(&[3]), s(5.0));
    // An answer that came just before changes nothing of that.
    member.answered(meanwhile.number, answer(1, None), s(5.0));
    let done = sent(&mut member, 5.0);
    assert_eq!((done.has, done.epoch), (Some(set(&[1, 2])), MemberEpoch(1)));
    member.answered(done.number, answer(2, Some(&[1, 2])), s(5.1));
    assert_eq!((member.epoch(), sent(&mut member, 5.1).has), (MemberEpoch(2), None));
}

#[test]
fn what_is_not_given_back_in_time_is_taken_and_the_coordinator_must_hear_of_it() {
    let mut member = member_with(&[1, 2], 0.0);
    let beat = sent(&mut member, 3.0);
    member.answered(beat.number, answer(1, Some(&[1])), s(3.0));
    assert!(matches!(member.poll(s(3.0)), Some(Event::Revoke { .. })));
    for now in [3.0, 6.0, 9.0, 12.0, 15.0, 18.0, 21.0] {
        let beat = sent(&mut member, now);
        assert_eq!(beat.has, None);
        member.answered(beat.number, answer(1, None), s(now));
    }
    let lost = Event::Lost { partitions: set(&[2]), why: Loss::NotGivenBack };
    assert_eq!(member.poll(s(22.0)), Some(lost));
    assert_eq!(sent(&mut member, 22.0).has, Some(set(&[1])));
    // Nobody hears it, though the session lasts: the coordinator takes everything now, and so does the member.
    let all = Event::Lost { partitions: set(&[1]), why: Loss::Silence };
    assert_eq!(member.poll(s(23.0)), Some(all));
    assert_eq!(sent(&mut member, 23.0).epoch, MemberEpoch::JOIN);
}

#[test]
fn a_member_that_was_put_out_loses_all_and_joins_anew() {
    for code in [ErrorCode::UnknownMember, ErrorCode::FencedMemberEpoch] {
        let mut member = member_with(&[1, 2], 0.0);
        let beat = sent(&mut member, 3.0);
        member.answered(beat.number, refused(code), s(3.0));
        let Some(Event::Lost { partitions, why: Loss::Fenced(why) }) = member.poll(s(3.0)) else { panic!() };
        assert_eq!((partitions, why.code, member.epoch()), (set(&[1, 2]), code, MemberEpoch::JOIN));
        let join = sent(&mut member, 3.0);
        assert_eq!(
            (join.epoch, join.has, join.subscription),
            (MemberEpoch::JOIN, Some(set(&[])), Some(wish("t")))
        );
    }
}

#[test]
fn a_session_counts_from_when_the_last_answered_heartbeat_was_sent() {
    let mut member = member_with(&[1], 0.0);
    let beat = sent(&mut member, 3.0);
    member.answered(beat.number, answer(1, None), s(6.0));
    let lost = sent(&mut member, 6.0);
    assert_eq!(member.next_wake(), Some(s(6.0) + timeouts().answered_within()));
    assert_eq!(member.poll(s(12.9)), None);
    assert_eq!(member.poll(s(13.0)), Some(Event::Lost { partitions: set(&[1]), why: Loss::Silence }));
    // What was asked before is not wanted any more.
    let join = sent(&mut member, 13.0);
    member.answered(lost.number, answer(1, Some(&[1])), s(13.0));
    assert_eq!((join.epoch, member.is_joined(), member.has().len()), (MemberEpoch::JOIN, false, 0));
}

#[test]
fn an_answer_that_was_lost_is_asked_for_again_with_what_the_member_has() {
    let mut member = member_with(&[1], 0.0);
    let lost = sent(&mut member, 3.0);
    assert_eq!(lost.has, None);
    let gone = 7.0;
    assert_eq!(member.poll(s(gone)), None, "after a pause");
    let again = sent(&mut member, gone + 0.2);
    assert_eq!(again.has, Some(set(&[1])));
    member.answered(lost.number, answer(9, Some(&[])), s(gone + 0.2));
    assert_eq!(member.epoch(), MemberEpoch(1), "too late to count");
    // Failures that may pass: longer and longer pauses.
    let mut number = again.number;
    let mut pauses = Vec::new();
    let mut now = s(gone + 0.2);
    for _ in 0..3 {
        member.alive = now;
        member.answered(number, refused(ErrorCode::CoordinatorNotAvailable), now);
        let due = member.next_wake().unwrap();
        pauses.push(due - now);
        now = due;
        number = sent(&mut member, now.as_secs_f64()).number;
    }
    assert!(pauses[0] >= s(0.08) && pauses[0] < pauses[1] && pauses[1] < pauses[2], "{pauses:?}");
}

#[test]
fn an_application_that_stays_away_is_out_until_it_is_back() {
    let mut member = member_with(&[1], 0.0);
    member.works(s(1.0));
    for now in [3.0, 6.0, 9.0, 12.0, 15.0, 18.0] {
        let beat = sent(&mut member, now);
        member.answered(beat.number, answer(1, None), s(now));
        assert_eq!(member.poll(s(now)), None);
    }
    assert_eq!(member.next_wake(), Some(s(21.0)));
    assert_eq!(member.poll(s(21.0)), Some(Event::Lost { partitions: set(&[1]), why: Loss::NotPolled }));
    let leave = sent(&mut member, 21.0);
    assert_eq!((leave.epoch, leave.leaving), (MemberEpoch::LEAVE, Some(MemberEpoch(1))));
    member.answered(leave.number, answer(-1, None), s(21.1));
    assert_eq!((member.poll(s(90.0)), member.next_wake()), (None, None));
    member.waits(s(90.0));
    assert_eq!(sent(&mut member, 90.0).epoch, MemberEpoch::JOIN);
}

#[test]
fn leaving_is_said_once_the_join_is_known_and_is_not_tried_for_ever() {
    let mut member = member_of(None);
    member.leave(false, s(0.0));
    assert_eq!((member.poll(s(0.0)), member.poll(s(0.0))), (Some(Event::Left), None), "it never joined");

    let mut member = member_of(Some("i"));
    let join = sent(&mut member, 0.0);
    member.leave(true, s(0.1));
    assert_eq!(member.poll(s(0.1)), None, "the join may still be on its way");
    member.answered(join.number, answer(1, Some(&[1])), s(0.2));
    let leave = sent(&mut member, 0.2);
    assert_eq!(
        (leave.epoch, leave.leaving, leave.max_wait, member.has().len()),
        (MemberEpoch::LEAVE_FOR_NOW, Some(MemberEpoch(1)), Duration::ZERO, 0)
    );
    member.answered(leave.number, refused(ErrorCode::CoordinatorNotAvailable), s(0.3));
    assert_eq!(sent(&mut member, 0.5).epoch, MemberEpoch::LEAVE_FOR_NOW);
    assert_eq!(member.poll(s(5.1)), Some(Event::Left));
    assert!(member.is_ended());

    let mut member = member_with(&[1], 0.0);
    sent(&mut member, 3.0);
    member.leave(true, s(3.1));
    let leave = sent(&mut member, 3.1);
    assert_eq!(leave.epoch, MemberEpoch::LEAVE, "only a static member comes back");
    member.answered(leave.number, refused(ErrorCode::UnknownMember), s(3.2));
    assert_eq!(member.poll(s(3.2)), Some(Event::Left));
}

#[test]
fn a_refusal_for_good_ends_the_member() {
    for code in [ErrorCode::FencedInstance, ErrorCode::InvalidRequest] {
        let mut member = member_with(&[1], 0.0);
        let beat = sent(&mut member, 3.0);
        member.answered(beat.number, refused(code), s(3.0));
        assert!(matches!(member.poll(s(3.0)), Some(Event::Lost { .. })));
        let Some(Event::Failed(why)) = member.poll(s(3.0)) else { panic!() };
        assert_eq!((why.code, member.poll(s(99.0)), member.next_wake()), (code, None, None));
    }
}

#[test]
fn a_member_goes_on_from_its_parts() {
    let mut member = member_with(&[1, 2], 0.0);
    let beat = sent(&mut member, 3.0);
    member.answered(beat.number, answer(1, Some(&[1])), s(3.0));
    let parts = member.parts();
    assert_eq!((parts.epoch, &parts.has, &parts.revoking), (MemberEpoch(1), &set(&[1, 2]), &set(&[2])));
    let timeouts = Timeouts { hold: Duration::ZERO, ..Timeouts::default() };
    let (id, now) = (MemberId::new("m").unwrap(), s(50.0));
    let mut member = Membership::from_parts(id, None, wish("t"), timeouts, now, parts);
    assert!(matches!(member.poll(now), Some(Event::Revoke { .. })));
    member.gave_back(&set(&[2]), now);
    let beat = sent(&mut member, 50.0);
    assert_eq!(
        (beat.epoch, beat.has, beat.subscription, beat.max_wait),
        (MemberEpoch(1), Some(set(&[1])), None, Duration::ZERO)
    );
}

#[test]
fn what_it_has_is_said_with_the_step_that_it_had_heard_of() {
    let mut member = member_of(None);
    let join = sent(&mut member, 0.0);
    assert_eq!(join.heard, None);
    let told = |epoch, assignment: &[i32], step| {
        let answer = answer(epoch, Some(assignment)).unwrap();
        Ok(Answer { step, ..answer })
    };
    member.answered(join.number, told(1, &[0, 1], Some(4)), s(0.1));
    assert_eq!(member.poll(s(0.1)), Some(Event::Assigned(set(&[0, 1]))));
    let first = sent(&mut member, 0.1);
    assert_eq!((first.has, first.heard), (Some(set(&[0, 1])), Some(4)));
    // Asked to give one back: until it has, it says with each report that it has heard of it.
    member.answered(first.number, told(1, &[0], Some(5)), s(0.2));
    assert!(matches!(member.poll(s(0.2)), Some(Event::Revoke { .. })));
    let second = sent(&mut member, 0.2);
    assert_eq!((second.has, second.heard), (None, None), "nothing new yet");
    member.gave_back(&set(&[1]), s(0.3));
    let third = sent(&mut member, 0.3);
    assert_eq!((third.has, third.heard), (Some(set(&[0])), Some(5)));
    // A new life has heard of nothing.
    member.answered(third.number, refused(ErrorCode::FencedMemberEpoch), s(0.4));
    assert!(matches!(member.poll(s(0.4)), Some(Event::Lost { .. })));
    let anew = sent(&mut member, 0.4);
    assert_eq!((anew.epoch, anew.heard), (MemberEpoch::JOIN, None));
    assert!(anew.number > join.number);
}
