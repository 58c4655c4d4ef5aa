//! Each rule as a table of cases. A partition reads "leader [isr] elr, leader epoch/partition epoch"; all begin at 4/9.

use super::*;

fn ids(text: &str) -> Vec<BrokerId> {
    text.split_whitespace().map(|id| BrokerId(id.parse().unwrap())).collect()
}

/// "leader [isr] elr" with the replicas 1 2 3; "lost" behind it if it is.
fn partition(text: &str) -> PartitionImage {
    let (leader, rest) = text.split_once(" [").unwrap();
    let (isr, elr) = rest.split_once(']').unwrap();
    PartitionImage {
        leader: BrokerId(if leader == "-" { -1 } else { leader.parse().unwrap() }),
        leader_epoch: LeaderEpoch(4),
        partition_epoch: PartitionEpoch(9),
        replicas: ids("1 2 3"),
        isr: ids(isr),
        elr: ids(elr.trim_end_matches("lost")),
        adding: vec![],
        removing: vec![],
        lost: elr.ends_with("lost"),
    }
}

fn moving(text: &str, replicas: &str, adding: &str, removing: &str) -> PartitionImage {
    PartitionImage {
        replicas: ids(replicas),
        adding: ids(adding),
        removing: ids(removing),
        ..partition(text)
    }
}

fn shown(partition: &PartitionImage) -> String {
    let list = |ids: &[BrokerId]| ids.iter().map(BrokerId::to_string).collect::<Vec<_>>().join(" ");
    let PartitionImage { leader, isr, elr, .. } = partition;
    let leader = if partition.is_online() { leader.to_string() } else { "-".to_owned() };
    let elr = if elr.is_empty() { String::new() } else { format!(" {}", list(elr)) };
    let lost = if partition.lost { " lost" } else { "" };
    let epochs = format!("{}/{}", partition.leader_epoch, partition.partition_epoch);
    format!("{leader} [{}]{elr}{lost}, {epochs}", list(isr))
}

/// Runs a rule where the brokers of `active` are, with min.insync.replicas `min`.
#[track_caller]
fn expect(
    active: &str,
    min: usize,
    unclean: bool,
    rule: impl Fn(Rules<'_>) -> Option<PartitionImage>,
    wanted: &str,
) {
    let listed = ids(active);
    let active = |id| listed.contains(&id);
    let got = rule(Rules { active: &active, unclean, min_insync_replicas: min });
    assert_eq!(got.as_ref().map_or_else(|| "same".to_owned(), shown), wanted);
}

#[test]
fn fencing_a_broker() {
    // before, gone, active, min.insync.replicas, unclean -> after
    let cases = [
        // The next replica in sync leads; the one gone is out of sync.
        ("1 [1 2 3]", 1, "2 3", 1, false, "2 [2 3], 5/10"),
        // Not the next replica in the list, but the next one in sync.
        ("1 [1 3]", 1, "2 3", 1, false, "3 [3], 5/10"),
        // A follower leaves the ISR; the leader and its epoch stay.
        ("1 [1 2 3]", 2, "1 3", 1, false, "1 [1 3], 4/10"),
        // A follower out of sync changes nothing.
        ("1 [1 3]", 2, "1 3", 1, false, "same"),
        // The last in sync: no leader, and it is remembered.
        ("1 [1]", 1, "2 3", 1, false, "- [1], 5/10"),
        // The same, and the topic prefers being available to being complete.
        ("1 [1]", 1, "2 3", 1, true, "2 [2], 5/10"),
        ("1 [1]", 1, "", 1, true, "- [1], 5/10"),
        // Unclean is the last resort only.
        ("1 [1 3]", 1, "2 3", 1, true, "3 [3], 5/10"),
        // A broker that holds no replica.
        ("1 [1]", 7, "1", 1, false, "same"),
        // Without leader before, and no better now.
        ("- [1]", 2, "3", 1, false, "same"),
        // With enough in sync whoever leaves is not eligible: more will be committed.
        ("1 [1 2 3]", 3, "1 2", 2, false, "1 [1 2], 4/10"),
        // With too few it is.
        ("1 [1 2]", 2, "1 3", 2, false, "1 [1] 2, 4/10"),
        ("1 [1 2 3]", 1, "2 3", 3, false, "2 [2 3] 1, 5/10"),
        // The last in sync goes: an eligible one leads, and the one that went is eligible in its turn.
        ("1 [1] 2", 1, "2 3", 2, false, "2 [2] 1, 5/10"),
        ("1 [1] 2 3", 1, "3", 2, false, "3 [3] 1 2, 5/10"),
        // An eligible one goes before unclean is thought of.
        ("1 [1] 3", 1, "2 3", 2, true, "3 [3] 1, 5/10"),
        // Nobody eligible is there: all are remembered.
        ("1 [1] 2", 1, "3", 2, false, "- [1] 2, 5/10"),
        // An unclean leader's history is another one, so nobody is eligible with it.
        ("1 [1] 2", 1, "3", 2, true, "3 [3], 5/10"),
        // An eligible one that goes stays eligible.
        ("1 [1] 2", 2, "1 3", 2, false, "same"),
    ];
    for (before, gone, active, min, unclean, after) in cases {
        let before = partition(before);
        expect(active, min, unclean, |rules| after_fencing(&before, BrokerId(gone), rules), after);
    }
}

#[test]
fn a_broker_that_returns() {
    let cases = [
        ("- [2]", "2 3", 1, false, "2 [2], 5/10"),
        ("- [2]", "1 3", 1, false, "same"),
        ("- [2]", "1 3", 1, true, "1 [1], 5/10"),
        ("- [2]", "1 2", 1, true, "2 [2], 5/10"),
        ("2 [2]", "1 2", 1, false, "same"),
        // The ISR is first, then who is eligible.
        ("- [2] 1", "1 2", 2, false, "2 [2] 1, 5/10"),
        ("- [2] 1", "1 3", 2, false, "1 [1] 2, 5/10"),
        ("- [2] 1", "3", 2, false, "same"),
        // While nobody leads nothing is committed, so that nobody ceases to be eligible; then it may be.
        ("- [2] 1", "3", 1, false, "same"),
        ("- [2] 1", "1", 1, false, "1 [1], 5/10"),
        ("2 [2] 1", "1 2", 1, false, "2 [2], 4/10"),
        // The last one lost its data: others only on request, and it comes last even then.
        ("- [1]lost", "1 2", 1, false, "same"),
        ("- [1]lost", "1 2", 1, true, "2 [2], 5/10"),
        ("- [1]lost", "1", 1, true, "1 [1], 5/10"),
    ];
    for (before, active, min, unclean, after) in cases {
        let before = partition(before);
        expect(active, min, unclean, |rules| after_return(&before, rules), after);
    }
}

#[test]
fn a_broker_that_wants_to_stop() {
    let cases = [
        ("1 [1 2 3]", 1, "2 3", 1, "2 [2 3], 5/10"),
        ("1 [1 2]", 2, "1 3", 1, "1 [1], 4/10"),
        // Nobody else is in sync: it goes on until it is fenced.
        ("1 [1]", 1, "2 3", 1, "same"),
        ("1 [1 2]", 1, "3", 1, "same"),
        ("1 [1]", 3, "1 2", 1, "same"),
        // It goes with all that is committed.
        ("1 [1 2]", 1, "2 3", 2, "2 [2] 1, 5/10"),
        // An eligible one may lack what the leader acknowledged alone since, so it does not take over yet.
        ("1 [1] 2", 1, "2 3", 2, "same"),
    ];
    for (before, leaving, active, min, after) in cases {
        let before = partition(before);
        expect(active, min, false, |rules| after_shutdown_request(&before, BrokerId(leaving), rules), after);
    }
}

#[test]
fn a_new_process_of_a_broker() {
    use Returned::{Bare, Unsure, Whole};
    // before, who, what it has, active, unclean -> after, with min.insync.replicas 2
    let cases = [
        // All is there: as if it had been fenced.
        ("1 [1 2 3]", 1, Whole, "2 3", false, "2 [2 3], 5/10"),
        ("1 [1 2]", 1, Whole, "2", false, "2 [2] 1, 5/10"),
        ("- [1] 2", 1, Whole, "3", false, "same"),
        ("- [2] 1", 1, Whole, "3", false, "same"),
        // In doubt it is not eligible where someone else holds all.
        ("1 [1 2]", 1, Unsure, "2", false, "2 [2], 5/10"),
        ("- [2] 1", 1, Unsure, "3", false, "- [2], 4/10"),
        ("- [1] 2", 1, Unsure, "3", false, "- [2], 4/10"),
        ("- [1] 2 3", 1, Unsure, "", false, "- [2] 3, 4/10"),
        ("1 [1] 2", 1, Unsure, "2 3", false, "2 [2], 5/10"),
        // But where nobody else does, it has the most.
        ("- [1]", 1, Unsure, "2 3", false, "same"),
        ("1 [1]", 1, Unsure, "2 3", false, "- [1], 5/10"),
        // With an empty disk the same, except that nothing is not the most.
        ("1 [1 2]", 1, Bare, "2", false, "2 [2], 5/10"),
        ("- [1] 2", 1, Bare, "3", false, "- [2], 4/10"),
        ("1 [1]", 1, Bare, "2 3", false, "- [1] lost, 5/10"),
        ("- [1]", 1, Bare, "2 3", false, "- [1] lost, 4/10"),
        ("- [1]", 1, Bare, "2 3", true, "2 [2], 5/10"),
        ("- [1]lost", 1, Bare, "2 3", false, "same"),
        ("- [1]lost", 1, Whole, "2 3", false, "same"),
        // Who was out of sync changes nothing.
        ("2 [2 3]", 1, Bare, "2 3", false, "same"),
        ("- [2]lost", 1, Bare, "3", false, "same"),
    ];
    for (before, id, returned, active, unclean, after) in cases {
        let before = partition(before);
        let rule = |rules: Rules<'_>| after_registration(&before, BrokerId(id), returned, false, rules);
        expect(active, 2, unclean, rule, after);
    }
    // Its disks are back. It leads when it is active.
    let lost = partition("- [1]lost");
    for (id, after) in [(1, "- [1], 4/10"), (2, "same")] {
        expect("2 3", 2, false, |rules| after_registration(&lost, BrokerId(id), Bare, true, rules), after);
    }
}

#[test]
fn a_leader_that_changes_its_isr() {
    let cases = [
        ("1 [1 2 3]", "1 2", 2, "1 [1 2], 4/10"),
        ("1 [1 2 3]", "1", 2, "1 [1] 2 3, 4/10"),
        ("1 [1] 2 3", "1 3", 3, "1 [1 3] 2, 4/10"),
        ("1 [1] 2 3", "1 3", 2, "1 [1 3], 4/10"),
        ("1 [1 2]", "1 2", 2, "same"),
    ];
    for (before, isr, min, after) in cases {
        let before = partition(before);
        expect("1 2 3", min, false, |rules| after_isr_change(&before, ids(isr), rules), after);
    }
}

#[test]
fn the_preferred_replica_leads_only_when_it_may() {
    let cases = [
        ("2 [1 2]", "1 2 3", "1 [1 2], 5/10"),
        ("1 [1 2]", "1 2 3", "same"),
        ("2 [2 3]", "1 2 3", "same"),
        ("2 [1 2]", "2 3", "same"),
        ("2 [2] 1", "1 2", "same"),
        ("- [1]lost", "1", "same"),
    ];
    for (before, active, after) in cases {
        let before = partition(before);
        expect(active, 2, false, |rules| prefer(&before, rules), after);
    }
}

#[test]
fn a_reassignment_ends_when_all_that_is_new_is_in_sync() {
    // before, replicas, adding, removing, new ISR, min -> after, and the replicas then if it ended
    let cases = [
        ("1 [1 2]", "3 1 2", "3", "2", "1 2 3", 1, "1 [3 1], 4/10", Some("3 1")),
        // Not yet.
        ("1 [1]", "3 4 1", "3 4", "1", "1 3", 1, "1 [3 1], 4/10", None),
        // The leader is to go: the first that stays and can leads.
        ("1 [3 1]", "3 4 1", "3 4", "1", "1 3 4", 1, "3 [3 4], 5/10", Some("3 4")),
        // It would leave fewer in sync than must be, and than are.
        ("1 [3 1]", "3 2 1", "3", "1", "1 3", 2, "same", None),
        ("1 [3 1]", "3 2 1", "3", "1", "1 2 3", 2, "3 [3 2], 5/10", Some("3 2")),
        // Fewer than must be are in sync anyway.
        ("1 [1]", "3 2 1", "3", "1", "1 3", 3, "1 [3 1], 4/10", None),
        // One that was eligible has gone.
        ("1 [1] 2", "3 1 2", "3", "2", "1 3", 3, "1 [3 1], 4/10", Some("3 1")),
        // To fewer replicas: then fewer must be.
        ("1 [1 2]", "1 2 3", "", "2 3", "1 2", 2, "1 [1], 4/10", Some("1")),
    ];
    for (before, replicas, adding, removing, isr, min, after, ended) in cases {
        let before = moving(before, replicas, adding, removing);
        let listed = ids("1 2 3 4");
        let active = |id| listed.contains(&id);
        let rules = Rules { active: &active, unclean: false, min_insync_replicas: min };
        let next = after_isr_change(&before, ids(isr), rules);
        let what = format!("{before:?} -> {isr}");
        assert_eq!(next.as_ref().map_or_else(|| "same".to_owned(), shown), after, "{what}");
        let next = next.unwrap_or(before);
        let end = (!next.is_reassigning()).then(|| next.replicas.clone());
        assert_eq!(end, ended.map(ids), "{what}");
    }
    // The new leader must be active.
    let before = moving("1 [3 1]", "3 1", "3", "1");
    let rule = |rules: Rules<'_>| after_isr_change(&before, ids("1 3"), rules);
    expect("1", 1, false, rule, "same");
    expect("1 3", 1, false, rule, "3 [3], 5/10");
}

#[test]
fn a_replica_that_is_being_added_is_the_last_choice_of_an_unclean_election() {
    let before = moving("- [1]", "3 2 1", "3", "1");
    expect("2 3", 1, true, |rules| after_return(&before, rules), "2 [2], 5/10");
    // The only one there: then the reassignment needs no one else to end.
    let before = moving("- [1]", "3 1", "3", "1");
    expect("3", 1, true, |rules| after_return(&before, rules), "3 [3], 5/10");
}
