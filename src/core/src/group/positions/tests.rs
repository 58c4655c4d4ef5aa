use super::*;

fn at(offset: i64) -> Position {
    Position::new(Offset(offset), LeaderEpoch(4))
}

#[test]
fn what_was_given_is_committed_only_when_the_application_came_back() {
    let mut places: Positions<u8> = Positions::default();
    places.assign(1, at(10), Some(Offset(10)));
    places.assign(2, at(5), None);
    assert_eq!(places.to_commit(), vec![(2, at(5))], "where it begins is to be durable too");
    places.committed(&2, Offset(5));
    places.fetched(&1, Offset(40));
    assert!(places.given(&1, at(20)));
    assert_eq!(places.to_commit(), vec![]);
    places.all_done();
    assert!(places.given(&1, at(30)));
    assert_eq!(places.to_commit(), vec![(1, at(20))]);
    places.committed(&1, Offset(20));
    assert_eq!(places.to_commit(), vec![]);
    places.done(&1);
    assert_eq!(places.to_commit(), vec![(1, at(30))]);
    let last = places.remove(&1).unwrap();
    assert_eq!((last.fetched, last.given, last.committed), (Offset(40), at(30), Some(Offset(20))));
    assert_eq!(places.len(), 1);
}

#[test]
fn what_comes_late_is_not_given_twice_and_a_seek_is_committed_back() {
    let mut places: Positions<u8> = Positions::default();
    places.assign(1, at(0), Some(Offset(0)));
    assert!(places.given(&1, at(20)));
    assert!(!places.given(&1, at(20)) && !places.given(&1, at(19)) && !places.given(&2, at(1)));
    places.all_done();
    places.committed(&1, Offset(20));
    assert!(places.seek(&1, Offset(3)) && !places.seek(&2, Offset(3)));
    assert_eq!(places.to_commit(), vec![(1, Position::at(Offset(3)))]);
    assert_eq!(places.get(&1).unwrap().fetched, Offset(3));
}

#[test]
fn a_partition_without_a_position_commits_nothing_until_it_has_one() {
    let mut places: Positions<u8> = Positions::default();
    places.assign(1, Position::at(Offset::NONE), None);
    assert_eq!(places.to_commit(), vec![]);
    places.seek(&1, Offset(0));
    assert_eq!(places.to_commit(), vec![(1, Position::at(Offset(0)))]);
    assert!(places.pause(&1, true) && places.get(&1).unwrap().paused && !places.pause(&2, true));
}
