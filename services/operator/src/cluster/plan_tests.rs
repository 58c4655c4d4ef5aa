//! Transcripts of scaling: what is seen, what follows.

use super::*;

fn broker(id: i32, replicas: u32) -> BrokerView {
    BrokerView { id, replicas, ..BrokerView::default() }
}

/// A chart's cluster: pods from 1 on, ids as the pods'.
fn seen(desired: i32, replicas: i32) -> Observed {
    let brokers = (1..=replicas).map(|id| broker(id, 9)).collect();
    Observed {
        desired,
        id_offset: 0,
        set: SetView { replicas, first: 1, pods: replicas, selector: String::new() },
        pods: (1..=replicas).collect(),
        ready: (1..=replicas).collect(),
        cluster: Ok(ClusterView {
            id: "c".to_owned(),
            brokers,
            controller_leader: 1,
            ..ClusterView::default()
        }),
        moving: 0,
        largest_factor: 3,
        removing: None,
        pods_before: replicas,
        progressing: false,
        quiet_since: None,
        quiet: Duration::from_secs(10),
        now: Timestamp::from_second(1_000).unwrap(),
    }
}

fn cluster(seen: &mut Observed) -> &mut ClusterView {
    seen.cluster.as_mut().unwrap()
}

fn one(seen: &mut Observed, id: i32) -> &mut BrokerView {
    cluster(seen).brokers.iter_mut().find(|broker| broker.id == id).unwrap()
}

fn told(seen: &Observed) -> (Act, &'static str, Option<i32>) {
    let plan = decide(seen);
    (plan.act, plan.reason, plan.removing)
}

#[test]
fn nothing_is_done_where_all_is_as_wanted() {
    let plan = decide(&seen(3, 3));
    assert_eq!((plan.act, plan.phase, plan.reason), (Act::Wait, Phase::Done, "AsWanted"));
    // Moves and restarts that nobody asked of the operator are none of its business.
    let mut moving = seen(3, 3);
    moving.moving = 5;
    assert_eq!(decide(&moving).phase, Phase::Done);
    one(&mut moving, 2).fenced = true;
    assert_eq!(told(&moving), (Act::Wait, "WaitingForBrokers", None));
}

#[test]
fn more_brokers_come_register_and_get_their_share() {
    let mut now = seen(4, 3);
    assert_eq!(told(&now), (Act::Raise { to: 4 }, "ScalingOut", None));
    now.set.replicas = 4;
    now.progressing = true;
    assert_eq!(told(&now), (Act::Wait, "WaitingForBrokers", None));
    cluster(&mut now).brokers.push(broker(4, 0));
    now.moving = 3;
    assert_eq!(told(&now), (Act::Wait, "Balancing", None));
    now.moving = 0;
    cluster(&mut now).under_replicated = 1;
    assert_eq!(told(&now), (Act::Wait, "Balancing", None));
    cluster(&mut now).under_replicated = 0;
    // Quiet for a moment is not balanced: the next moves may be about to begin.
    let plan = decide(&now);
    assert_eq!((plan.phase, plan.quiet_since), (Phase::Moving, Some(now.now)));
    now.quiet_since = plan.quiet_since;
    now.now = Timestamp::from_second(1_009).unwrap();
    assert_eq!(decide(&now).phase, Phase::Moving);
    now.now = Timestamp::from_second(1_010).unwrap();
    assert_eq!(decide(&now).phase, Phase::Done);
    // A clock that was set back does not end the wait.
    now.now = Timestamp::from_second(900).unwrap();
    assert_eq!(decide(&now).quiet_since, Some(now.now));
}

#[test]
fn fewer_brokers_are_drained_stopped_and_forgotten_one_after_the_other() {
    let mut now = seen(3, 5);
    assert_eq!(told(&now), (Act::Drain { id: 5 }, "Draining", Some(5)));
    now.removing = Some(5);
    one(&mut now, 5).draining = true;
    assert_eq!(told(&now), (Act::Wait, "Draining", Some(5)));
    one(&mut now, 5).replicas = 0;
    assert_eq!(told(&now), (Act::Lower { to: 4, id: 5 }, "RemovingBroker", Some(5)));
    now.set.replicas = 4;
    // The next one waits until this one is gone.
    assert_eq!(told(&now), (Act::Wait, "StoppingBroker", Some(5)));
    now.pods.remove(&5);
    one(&mut now, 5).fenced = true;
    assert_eq!(told(&now), (Act::Unregister { id: 5, ordinal: 5 }, "ForgettingBroker", Some(5)));
    cluster(&mut now).brokers.retain(|broker| broker.id != 5);
    // Forgotten already, and the status did not hear of it.
    assert_eq!(told(&now), (Act::Unregister { id: 5, ordinal: 5 }, "ForgettingBroker", Some(5)));
    now.removing = None;
    assert_eq!(told(&now), (Act::Drain { id: 4 }, "Draining", Some(4)));
}

#[test]
fn a_pods_number_is_not_its_brokers_id_everywhere() {
    let mut now = seen(3, 4);
    now.set.first = 0;
    now.id_offset = 100;
    now.pods = (0..4).collect();
    now.ready = now.pods.clone();
    cluster(&mut now).brokers = (100..104).map(|id| broker(id, 1)).collect();
    assert_eq!(told(&now), (Act::Drain { id: 103 }, "Draining", Some(103)));
    now.removing = Some(103);
    now.set.replicas = 3;
    now.pods.remove(&3);
    one(&mut now, 103).replicas = 0;
    assert_eq!(told(&now), (Act::Unregister { id: 103, ordinal: 3 }, "ForgettingBroker", Some(103)));
}

#[test]
fn what_would_not_fit_is_refused() {
    let now = seen(2, 4);
    assert_eq!(told(&now), (Act::Wait, "ScaleInRefused", None));
    assert!(decide(&now).message.contains("at least 3"), "{}", decide(&now).message);
    assert_eq!(decide(&now).phase, Phase::Refused);
    assert_eq!(told(&seen(0, 4)).1, "ScaleInRefused");
    // Brokers of another StatefulSet take replicas too.
    let mut shared = seen(2, 4);
    cluster(&mut shared).brokers.push(broker(11, 3));
    assert_eq!(told(&shared), (Act::Drain { id: 4 }, "Draining", Some(4)));
    one(&mut shared, 11).draining = true;
    assert_eq!(told(&shared).1, "ScaleInRefused");
    // A topic with more replicas came while one was drained: the drain is taken back.
    let mut late = seen(3, 4);
    late.removing = Some(4);
    one(&mut late, 4).draining = true;
    late.largest_factor = 4;
    assert_eq!(told(&late), (Act::Undrain { id: 4 }, "ScaleInRefused", None));
}

#[test]
fn a_drain_that_cannot_end_is_told() {
    let mut now = seen(3, 4);
    now.removing = Some(4);
    *one(&mut now, 4) = BrokerView { id: 4, draining: true, replicas: 2, stuck: 2, ..BrokerView::default() };
    let plan = decide(&now);
    assert_eq!((plan.act, plan.phase, plan.reason), (Act::Wait, Phase::Refused, "DrainStuck"));
}

#[test]
fn a_change_of_mind_takes_the_drain_back() {
    let mut now = seen(4, 4);
    now.removing = Some(4);
    one(&mut now, 4).draining = true;
    assert_eq!(told(&now), (Act::Undrain { id: 4 }, "DrainCancelled", None));
    // Even when its pod has gone already: it comes back, and is no longer drained.
    now.set.replicas = 3;
    now.pods.remove(&4);
    assert_eq!(told(&now), (Act::Undrain { id: 4 }, "DrainCancelled", None));
    one(&mut now, 4).draining = false;
    assert_eq!(told(&now), (Act::Raise { to: 4 }, "ScalingOut", None));
    // A drain that a person began is left alone.
    let mut theirs = seen(3, 3);
    one(&mut theirs, 2).draining = true;
    assert_eq!(told(&theirs), (Act::Wait, "AsWanted", None));
}

#[test]
fn a_broker_that_holds_data_is_never_left_without_its_pod() {
    let mut now = seen(3, 3);
    now.removing = Some(4);
    cluster(&mut now).brokers.push(BrokerView { fenced: true, ..broker(4, 2) });
    assert_eq!(told(&now), (Act::Raise { to: 4 }, "BrokerHoldsReplicas", Some(4)));
    // Somebody lowered the StatefulSet past the operator: what holds data is started again, then drained as it should have been.
    let mut past = seen(3, 3);
    past.pods_before = 5;
    cluster(&mut past).brokers.extend([BrokerView { fenced: true, ..broker(4, 2) }, broker(5, 0)]);
    assert_eq!(told(&past), (Act::Raise { to: 4 }, "BrokerHoldsReplicas", Some(4)));
    past.pods.insert(4);
    assert_eq!(told(&past), (Act::Wait, "StoppingBroker", Some(4)));
    // And if it is fewer than asked for, it is raised anyway.
    assert_eq!(told(&seen(4, 3)).0, Act::Raise { to: 4 });
    // A pod that never became a broker may go, if the controllers know of none either.
    let mut never = seen(3, 4);
    cluster(&mut never).brokers.pop();
    never.ready.remove(&4);
    assert_eq!(told(&never), (Act::Lower { to: 3, id: 4 }, "RemovingBroker", Some(4)));
}

#[test]
fn no_pod_is_stopped_while_it_is_not_sure_which_broker_it_is() {
    // The ids are other ones than the resource says: higher, lower.
    for (first, ids) in [(0, 100..104), (0, 1..5), (1, 0..4)] {
        let mut wrong = seen(3, 4);
        wrong.set.first = first;
        wrong.pods = (first..first + 4).collect();
        wrong.ready = wrong.pods.clone();
        cluster(&mut wrong).brokers = ids.map(|id| broker(id, 0)).collect();
        assert_eq!(told(&wrong), (Act::Wait, "BrokersUnknown", None), "{first}");
        // Nor while the pods are not ready.
        wrong.ready.clear();
        if first == 0 {
            assert_eq!(told(&wrong).1, "BrokersUnknown");
        }
    }
}

#[test]
fn all_that_somebody_took_away_come_back() {
    let mut now = seen(3, 3);
    now.pods_before = 5;
    let gone = |id, replicas| BrokerView { fenced: true, ..broker(id, replicas) };
    cluster(&mut now).brokers.extend([gone(4, 9), gone(5, 2)]);
    assert_eq!(told(&now), (Act::Raise { to: 5 }, "BrokerHoldsReplicas", Some(5)));
    // What was taken is remembered until it is forgotten, and while nobody answers.
    assert_eq!(now.pods_to_remember(), 5);
    cluster(&mut now).brokers.pop();
    assert_eq!(now.pods_to_remember(), 4);
    cluster(&mut now).brokers.pop();
    assert_eq!(now.pods_to_remember(), 3);
    now.cluster = Err("nobody".to_owned());
    assert_eq!(now.pods_to_remember(), 5);
    let mut more = seen(5, 5);
    more.pods_before = 3;
    assert_eq!(more.pods_to_remember(), 5);
}

#[test]
fn a_cluster_that_does_not_answer_loses_no_broker() {
    let mut now = seen(3, 4);
    now.cluster = Err("nobody".to_owned());
    now.removing = Some(4);
    assert_eq!(told(&now), (Act::Wait, "ClusterUnreachable", Some(4)));
    now.desired = 5;
    assert_eq!(told(&now), (Act::Raise { to: 5 }, "ScalingOut", Some(4)));
}
