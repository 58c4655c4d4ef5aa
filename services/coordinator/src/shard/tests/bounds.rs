//! What is too large, and what a shard that stood still does.

use super::*;

fn joining(client: &Client, topics: Vec<String>, pattern: &str) -> ShardCall {
    let wish = v1::GroupSubscription { topics, pattern: pattern.to_owned(), ..Default::default() };
    let request = v1::HeartbeatRequest { subscription: Some(wish), ..client.request(0) };
    ShardCall::Heartbeat { request, host: "h".into() }
}

fn code(reply: Option<Result<Reply, Refusal>>) -> Option<ErrorCode> {
    reply.and_then(Result::err).map(|refusal| refusal.code)
}

#[test]
fn what_the_log_cannot_hold_is_refused_before_it_takes_effect() {
    let config = GroupConfig { max_record_bytes: 64 * 1024, ..GroupConfig::default() };
    let mut rig = Rig::with(2, config);
    let names = |count: usize| (0..count).map(|n| format!("{n:0>200}")).collect::<Vec<_>>();
    let mut a = Client::new("g", "a");
    let call = rig.call(joining(&a, names(500), ""));
    assert_eq!(code(rig.take(call)), Some(ErrorCode::InvalidRequest));
    assert!(!rig.has_group("g") && rig.log.is_empty());
    // One that is in the group cannot ask for it either, and stays as it was.
    a.join(&mut rig).unwrap();
    let before = rig.records().len();
    let call = rig.call(joining(&a, names(500), ""));
    assert_eq!(code(rig.take(call)), Some(ErrorCode::InvalidRequest));
    assert_eq!((rig.records().len(), rig.group("g").members.len()), (before, 1));
    assert!(a.beat(&mut rig).is_ok());
    // The topic itself may hold less.
    let id = Client::new("h", "a");
    let call = rig.call(joining(&id, names(200), ""));
    assert_eq!(code(rig.take(call)), None);
}

#[test]
fn an_assignment_that_the_log_cannot_hold_is_not_made() {
    // A kilobyte for the rest, and 64 bytes for each partition in the cheap bound; 5 in the record.
    let config = GroupConfig { max_record_bytes: 8 * 1024 + 1_200, ..GroupConfig::default() };
    let mut rig = Rig::with(600, config);
    let mut a = Client::new("g", "a");
    a.send(&mut rig, 0);
    rig.pass(6_000);
    assert!(rig.group("g").target.is_empty(), "600 partitions take more than 1,200 bytes");
    // A second member takes its half of them, which fits.
    rig.grow("t", 601);
    let mut b = Client::new("g", "b");
    let (first, second) = (a.send(&mut rig, 0), b.send(&mut rig, 0));
    rig.pass(6_000);
    for (client, call) in [(&mut a, first), (&mut b, second)] {
        assert!(client.hear(&mut rig, call).is_some());
    }
}

#[test]
fn a_pattern_is_small_and_compiled_only_for_who_is_let_in() {
    let mut rig = Rig::new(2);
    let large = format!("({})+", "[a-z0-9_]{1,200}".repeat(20));
    for pattern in [large.as_str(), "(", "a)|(b"] {
        let call = rig.call(joining(&Client::new("g", "a"), Vec::new(), pattern));
        assert_eq!(code(rig.take(call)), Some(ErrorCode::InvalidRequest), "{pattern}");
    }
    let stranger = Client { epoch: 5, ..Client::new("g", "a") };
    let call = rig.call(joining(&stranger, Vec::new(), "("));
    assert_eq!(code(rig.take(call)), Some(ErrorCode::UnknownMember), "it was not even looked at");
    for pattern in [r"\w{1,100}", r"t|\d+", r"\p{Alphabetic}", "é*t"] {
        let mut a = Client::new(&format!("of {pattern}"), "a").matching(pattern);
        a.join(&mut rig).unwrap();
        assert_eq!(a.partitions(), [0, 1], "{pattern}");
    }
}

#[test]
fn a_description_tells_the_beginning_of_long_subscriptions() {
    let mut rig = Rig::new(1);
    let names = (0..300).map(|n| format!("topic-{n:0>3}")).collect();
    rig.call(joining(&Client::new("g", "a"), names, ""));
    rig.commit_outside("h", &[(0, 7)]);
    let described = |rig: &mut Rig, call: ShardCall| match rig.ask(call).unwrap() {
        Reply::DescribeGroup(mut answer) => answer.groups.remove(0).group.unwrap(),
        other => panic!("{other:?}"),
    };
    let group = v1::DescribeGroupsRequest { group_ids: vec!["g".to_owned()] };
    let group = described(&mut rig, ShardCall::DescribeGroup(group));
    assert_eq!(group.members[0].subscription.as_ref().unwrap().topics.len(), 100);
    // For the lag nobody's members are told.
    let group = described(&mut rig, ShardCall::DescribeOffsets(GroupId::new("g").unwrap()));
    assert_eq!((group.members.len(), group.partitions.len()), (0, 0));
    let group = described(&mut rig, ShardCall::DescribeOffsets(GroupId::new("h").unwrap()));
    assert_eq!(group.partitions[0].committed_offset, Some(7));
}

#[test]
fn a_member_loses_none_of_its_session_while_the_shard_stands_still() {
    let mut rig = Rig::new(2);
    let mut a = Client::new("g", "a");
    a.join(&mut rig).unwrap();
    a.beat(&mut rig).unwrap();
    rig.pass(44_000);
    // Longer than what is left of the session.
    rig.shard.postpone(Duration::from_secs(10));
    rig.pass(10_500);
    assert!(a.beat(&mut rig).is_ok());
    rig.pass(45_001);
    assert_eq!(a.beat(&mut rig), Err(ErrorCode::UnknownMember), "otherwise it ends as ever");
}
