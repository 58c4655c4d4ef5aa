//! Groups of three.

use crate::harness::Cluster;
use std::time::Duration;
use thalweg_core::NodeId;
use thalweg_raft::{MessageClass, RaftError, Role};
use tokio::time::sleep;

const ALL: [u64; 3] = [1, 2, 3];

#[tokio::test(start_paused = true)]
async fn they_elect_one_and_all_apply_the_same() {
    let cluster = Cluster::start(&ALL);
    let leader = cluster.leader().await;
    let mut last = 0;
    for n in 0..20 {
        last = cluster.propose(leader, &format!("{n}")).await.unwrap().0;
    }
    let commands = cluster.converge(&ALL, last).await;
    assert_eq!(commands.len(), 20);
    for id in ALL {
        assert_eq!(cluster.status(id).leader, Some(NodeId(leader)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_refuses_proposals_and_names_the_leader() {
    let cluster = Cluster::start(&ALL);
    let leader = cluster.leader().await;
    let follower = ALL.into_iter().find(|id| *id != leader).unwrap();
    cluster.until("the follower to know", || cluster.status(follower).leader).await;
    let refused = cluster.propose(follower, "x").await;
    assert_eq!(refused, Err(RaftError::NotLeader { leader: Some(NodeId(leader)) }));
}

#[tokio::test(start_paused = true)]
async fn a_follower_reads_what_the_leader_acknowledged() {
    let cluster = Cluster::start(&ALL);
    let leader = cluster.leader().await;
    for n in 0..10 {
        let (index, _) = cluster.propose(leader, &format!("{n}")).await.unwrap();
        for id in ALL {
            assert!(cluster.handle(id).read_index().await.unwrap() >= index);
            assert_eq!(cluster.nodes[&id].machine.texts().len(), n + 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_leader_dies_another_leads_with_all_that_was_acknowledged() {
    let mut cluster = Cluster::start(&ALL);
    let mut acknowledged = Vec::new();
    for round in 0..6 {
        let leader = cluster.leader().await;
        for n in 0..5 {
            let command = format!("{round}-{n}");
            cluster.propose_anywhere(&command).await;
            acknowledged.push(command);
        }
        cluster.crash(leader).await;
        cluster.leader_other_than(&[leader]).await;
        let last = cluster.propose_anywhere(&format!("after {round}")).await;
        acknowledged.push(format!("after {round}"));
        cluster.boot(leader);
        cluster.converge(&ALL, last).await;
    }
    let texts = cluster.nodes[&1].machine.texts();
    assert!(acknowledged.iter().all(|command| texts.contains(command)));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_steps_down_and_acknowledges_nothing() {
    let cluster = Cluster::start(&ALL);
    let old = cluster.leader().await;
    cluster.propose(old, "before").await.unwrap();
    cluster.net.isolate(old, &ALL);
    let lost = cluster.propose(old, "lost").await;
    assert!(matches!(lost, Err(RaftError::OutcomeUnknown)), "{lost:?}");
    cluster
        .until("the old leader to step down", || (cluster.status(old).role != Role::Leader).then_some(()))
        .await;
    assert!(matches!(cluster.propose(old, "no").await, Err(RaftError::NotLeader { leader: None })));
    assert!(cluster.handle(old).read_index().await.is_err());

    let new = cluster.leader_other_than(&[old]).await;
    let (last, _) = cluster.propose(new, "after").await.unwrap();
    cluster.net.heal();
    let commands = cluster.converge(&ALL, last).await;
    let texts: Vec<_> =
        commands.into_iter().map(|(_, command)| String::from_utf8(command).unwrap()).collect();
    assert_eq!(texts, ["before", "after"]);
}

#[tokio::test(start_paused = true)]
async fn a_proposal_overtaken_by_another_leaders_is_dropped_for_sure() {
    let cluster = Cluster::start(&ALL);
    let old = cluster.leader().await;
    cluster.net.isolate(old, &ALL);
    let handle = cluster.handle(old).clone();
    let overtaken = tokio::spawn(async move { handle.propose("lost".into()).await });
    let new = cluster.leader_other_than(&[old]).await;
    let (index, _) = cluster.propose(new, "won").await.unwrap();
    cluster.net.heal();
    cluster.converge(&ALL, index).await;
    assert_eq!(overtaken.await.unwrap(), Err(RaftError::Dropped));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_cut_off_disturbs_nobody_when_it_returns() {
    let cluster = Cluster::start(&ALL);
    let leader = cluster.leader().await;
    let term = cluster.status(leader).term;
    let lonely = ALL.into_iter().find(|id| *id != leader).unwrap();
    cluster.net.isolate(lonely, &ALL);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.status(lonely).role, Role::PreCandidate, "it has tried");
    assert_eq!(cluster.status(lonely).term, term, "but raised no term");
    cluster.net.heal();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster.status(leader).term, term);
    let (last, _) = cluster.propose(leader, "x").await.unwrap();
    cluster.converge(&ALL, last).await;
}

#[tokio::test(start_paused = true)]
async fn a_network_that_loses_messages_loses_no_acknowledged_command() {
    for seed in 1..=5 {
        let cluster = Cluster::start(&ALL);
        cluster.net.lose(20, seed * 7919);
        let mut last = 0;
        for n in 0..20 {
            last = cluster.propose_anywhere(&format!("{n}")).await;
        }
        cluster.net.heal();
        cluster.converge(&ALL, last).await;
        // A proposal of unknown outcome was made again, so a command may stand twice; none may be missing.
        let texts = cluster.nodes[&1].machine.texts();
        assert!((0..20).all(|n| texts.contains(&format!("{n}"))), "seed {seed}: {texts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_hands_over_first() {
    let mut cluster = Cluster::start(&ALL);
    let old = cluster.leader().await;
    cluster.propose(old, "a").await.unwrap();
    let term = cluster.status(old).term;
    let before = tokio::time::Instant::now();
    cluster.handle(old).shutdown();
    cluster.end_of(old).await.unwrap();
    let new = cluster.leader_other_than(&[old]).await;
    assert_eq!(cluster.status(new).term, term + 1);
    // Simulated time: less than the shortest election timeout, so nobody had to miss the old leader.
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn followers_that_see_the_leaders_process_go_do_not_wait_for_the_election_timeout() {
    let mut cluster = Cluster::start(&ALL);
    let old = cluster.leader().await;
    cluster.propose(old, "a").await.unwrap();
    let others = ALL.into_iter().filter(|id| *id != old);
    cluster.crash(old).await;
    let before = tokio::time::Instant::now();
    others.for_each(|id| cluster.handle(id).report_gone(NodeId(old)));
    let new = cluster.leader_other_than(&[old]).await;
    // Simulated time: less than the shortest election timeout.
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
    cluster.propose(new, "b").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn wrong_news_of_the_leaders_end_move_nothing() {
    let cluster = Cluster::start(&ALL);
    let leader = cluster.leader().await;
    let term = cluster.status(leader).term;
    let (last, _) = cluster.propose(leader, "a").await.unwrap();
    cluster.converge(&ALL, last).await;
    for id in ALL.into_iter().filter(|id| *id != leader) {
        cluster.handle(id).report_gone(NodeId(leader));
        sleep(Duration::from_secs(5)).await;
        assert_eq!((cluster.leader().await, cluster.status(leader).term), (leader, term), "told to {id}");
    }
    cluster.handle(leader).report_gone(NodeId(leader));
    cluster.propose(leader, "b").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_tells_how_far_each_is() {
    let mut cluster = Cluster::start(&ALL);
    let leader = cluster.leader().await;
    let follower = ALL.into_iter().find(|id| *id != leader).unwrap();
    let (last, _) = cluster.propose(leader, "a").await.unwrap();
    cluster.converge(&ALL, last).await;
    sleep(Duration::from_secs(3)).await;
    let progress = cluster.handle(leader).progress().await.unwrap();
    assert_eq!(
        progress.iter().map(|p| (p.id.get(), p.matched, p.active)).collect::<Vec<_>>(),
        ALL.map(|id| (id, last, true))
    );
    assert!(matches!(cluster.handle(follower).progress().await, Err(RaftError::NotLeader { .. })));
    cluster.crash(follower).await;
    sleep(Duration::from_secs(3)).await;
    let progress = cluster.handle(leader).progress().await.unwrap();
    assert!(progress.iter().all(|p| p.active == (p.id.get() != follower)), "{progress:?}");
    // Asked to, it hands over to the one that is there.
    assert!(cluster.handle(leader).hand_over().await.unwrap());
    let next = cluster.leader_other_than(&[leader]).await;
    // Left alone, it has nobody to hand over to, and says so at once.
    cluster.crash(leader).await;
    sleep(Duration::from_secs(3)).await;
    assert!(!cluster.handle(next).hand_over().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn leadership_goes_where_it_is_sent() {
    let cluster = Cluster::start(&ALL);
    let old = cluster.leader().await;
    let to = ALL.into_iter().find(|id| *id != old).unwrap();
    cluster.handle(old).transfer_leadership(NodeId(to)).await.unwrap();
    cluster.until("the chosen one to lead", || cluster.status(to).serving.then_some(())).await;
    assert!(cluster.handle(old).transfer_leadership(NodeId(to)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn rubbish_from_the_network_is_ignored() {
    let cluster = Cluster::start(&ALL);
    let leader = cluster.leader().await;
    for length in 0..200usize {
        let rubbish: Vec<u8> = (0..length).map(|at| (at * 31 + length * 17) as u8).collect();
        cluster.handle(leader).step(rubbish.into());
    }
    cluster.propose(leader, "still here").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_group_sends_heartbeats_and_nothing_else() {
    let cluster = Cluster::start(&ALL);
    let leader = cluster.leader().await;
    sleep(Duration::from_secs(5)).await;
    let before: Vec<u64> = ALL.iter().map(|id| cluster.net.sent(*id, MessageClass::Append)).collect();
    let writes: Vec<u64> = ALL.iter().map(|id| cluster.disks[id].writes()).collect();
    let beats = cluster.net.sent(leader, MessageClass::Control);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(before, ALL.map(|id| cluster.net.sent(id, MessageClass::Append)));
    assert_eq!(writes, ALL.map(|id| cluster.disks[&id].writes()));
    let beats = cluster.net.sent(leader, MessageClass::Control) - beats;
    assert!((80..=120).contains(&beats), "{beats} heartbeats to two followers in 10 s");
}
