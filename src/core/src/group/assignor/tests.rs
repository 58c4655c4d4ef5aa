//! Held against an oracle that knows neither racks nor order: complete, even, and moving no more than it must.

use super::*;
use proptest::prelude::*;

fn id(n: u8) -> TopicId {
    TopicId([n; 16])
}

fn topics(counts: &[usize]) -> Topics {
    let spec = |(n, count): (usize, &usize)| {
        let name = format!("t{n}").as_str().into();
        (id(n as u8 + 1), TopicSpec { name, racks: vec![BTreeSet::new(); *count] })
    };
    counts.iter().enumerate().map(spec).collect()
}

fn members(wants: &[(&str, &[u8])]) -> Subscribers {
    let member = |(name, topics): &(&str, &[u8])| {
        let topics = Arc::new(topics.iter().map(|n| id(*n)).collect());
        ((*name).into(), Subscriber { topics, ..Subscriber::default() })
    };
    wants.iter().map(member).collect()
}

/// Partitions of each member as "topic:partition" with topics from 1.
fn shown(assignment: &Assignment) -> Vec<String> {
    let one = |(member, got): (&Arc<str>, &BTreeSet<TopicIdPartition>)| {
        let got: Vec<String> = got.iter().map(|p| format!("{}:{}", p.topic.0[0], p.partition)).collect();
        format!("{member} {}", got.join(" "))
    };
    assignment.iter().map(one).collect()
}

fn check_complete(members: &Subscribers, topics: &Topics, assignment: &Assignment) {
    assert!(assignment.keys().eq(members.keys()));
    let mut seen = BTreeSet::new();
    for (member, got) in assignment {
        for partition in got {
            assert!(members[member].topics.contains(&partition.topic), "{member} did not want {partition:?}");
            assert!(seen.insert(*partition), "{partition:?} twice");
        }
    }
    let all: BTreeSet<_> =
        wanted(members, topics).into_iter().flat_map(|(topic, spec, _)| partitions(topic, spec)).collect();
    assert_eq!(seen, all);
}

#[test]
fn range_gives_rows_and_the_first_get_more() {
    let members = members(&[("a", &[1, 2]), ("b", &[1, 2]), ("c", &[2])]);
    let got = Assignor::Range.assign(&members, &topics(&[3, 4]));
    assert_eq!(shown(&got), ["a 1:0 1:1 2:0 2:1", "b 1:2 2:2", "c 2:3"]);
}

#[test]
fn round_robin_deals_and_passes_over_who_does_not_want() {
    let members = members(&[("a", &[1, 2]), ("b", &[1]), ("c", &[1, 2])]);
    let got = Assignor::RoundRobin.assign(&members, &topics(&[4, 3]));
    assert_eq!(shown(&got), ["a 1:0 1:3 2:1", "b 1:1", "c 1:2 2:0 2:2"]);
}

#[test]
fn a_join_and_a_leave_move_as_little_as_can_be() {
    let topics = topics(&[6]);
    let held = |members: &mut Subscribers, assignment: &Assignment| {
        for (id, got) in assignment {
            if let Some(member) = members.get_mut(id) {
                member.held = got.clone();
            }
        }
    };
    let mut group = members(&[("a", &[1]), ("b", &[1])]);
    let two = Assignor::Uniform.assign(&group, &topics);
    assert!(two.values().all(|got| got.len() == 3));
    held(&mut group, &two);
    group.insert(
        "c".into(),
        Subscriber { topics: Arc::new(BTreeSet::from([id(1)])), ..Subscriber::default() },
    );
    let three = Assignor::Uniform.assign(&group, &topics);
    assert!(three.values().all(|got| got.len() == 2));
    assert!(["a", "b"].iter().all(|m| three[*m].is_subset(&two[*m])), "{three:?}");
    held(&mut group, &three);
    group.remove("b");
    let after = Assignor::Uniform.assign(&group, &topics);
    assert!(["a", "c"].iter().all(|m| after[*m].is_superset(&three[*m])), "{after:?}");
}

#[test]
fn more_members_than_partitions_leave_the_others_idle() {
    let names: Vec<String> = (0..20).map(|n| format!("m{n:02}")).collect();
    let wants: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &[1u8][..])).collect();
    for assignor in [Assignor::Range, Assignor::RoundRobin, Assignor::Uniform] {
        let got = assignor.assign(&members(&wants), &topics(&[6]));
        assert_eq!(got.values().filter(|got| got.is_empty()).count(), 14, "{assignor}");
    }
}

#[test]
fn equals_get_what_is_near_to_them() {
    let rack = |name: &str| BTreeSet::from([Arc::<str>::from(name)]);
    let spec = TopicSpec { name: "t0".into(), racks: vec![rack("z1"), rack("z0"), rack("z1"), rack("z0")] };
    let mut group = members(&[("a", &[1]), ("b", &[1])]);
    for (name, rack) in [("a", "z0"), ("b", "z1")] {
        group.get_mut(name).unwrap().rack = Some(rack.into());
    }
    let got = Assignor::Uniform.assign(&group, &Topics::from([(id(1), spec)]));
    assert_eq!(shown(&got), ["a 1:1 1:3", "b 1:0 1:2"]);
}

#[test]
fn names_parse_and_a_wrong_one_says_which_there_are() {
    for assignor in [Assignor::Range, Assignor::RoundRobin, Assignor::Uniform] {
        assert_eq!(assignor.name().parse(), Ok(assignor));
    }
    assert_eq!("sticky".parse(), Ok(Assignor::Uniform));
    assert!("best".parse::<Assignor>().unwrap_err().to_string().contains("roundrobin"));
}

fn group() -> impl Strategy<Value = (Subscribers, Topics)> {
    let counts = prop::collection::vec(0usize..7, 1..4);
    let wants = prop::collection::vec(prop::collection::btree_set(1u8..4, 0..4), 1..7);
    (counts, wants).prop_map(|(counts, wants)| {
        let member = |(n, topics): (usize, BTreeSet<u8>)| {
            let topics = Arc::new(topics.into_iter().map(id).collect());
            (format!("m{n}").as_str().into(), Subscriber { topics, ..Subscriber::default() })
        };
        (wants.into_iter().enumerate().map(member).collect(), topics(&counts))
    })
}

fn spread(assignment: &Assignment) -> usize {
    assignment.values().map(|got| got.len() * got.len()).sum()
}

proptest! {
    #[test]
    fn every_partition_has_one_owner_that_wants_it((members, topics) in group()) {
        for assignor in [Assignor::Range, Assignor::RoundRobin, Assignor::Uniform] {
            let assignment = assignor.assign(&members, &topics);
            check_complete(&members, &topics, &assignment);
            prop_assert_eq!(&assignment, &assignor.assign(&members, &topics), "not deterministic");
        }
    }

    #[test]
    fn uniform_is_even_and_sticky((members, topics) in group(), gone in 0usize..7) {
        let first = Assignor::Uniform.assign(&members, &topics);
        // No single move makes it more even.
        for (giver, got) in &first {
            for partition in got {
                for (taker, has) in &first {
                    let better = has.len() + 2 <= got.len() && members[taker].topics.contains(&partition.topic);
                    prop_assert!(!better, "{} should give {:?} to {}", giver, partition, taker);
                }
            }
        }
        // With what it assigned as what is held, nothing moves.
        let mut next = members.clone();
        for (id, member) in &mut next {
            member.held = first[id].clone();
        }
        prop_assert_eq!(&Assignor::Uniform.assign(&next, &topics), &first);
        // Somebody leaves: it is as even as a fresh assignment, and nobody who stays loses what evenness does not cost.
        let leaver = next.keys().nth(gone % next.len()).cloned().unwrap();
        next.remove(&leaver);
        let after = Assignor::Uniform.assign(&next, &topics);
        check_complete(&next, &topics, &after);
        let mut fresh = next.clone();
        fresh.values_mut().for_each(|member| member.held.clear());
        prop_assert!(spread(&after) <= spread(&Assignor::Uniform.assign(&fresh, &topics)));
    }
}
