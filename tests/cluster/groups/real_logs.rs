//! Three members of one group print real logs once, in a cluster of processes; a second group gets all of it again.

use crate::harness::{
    Cluster, Member, Output, assigned, await_group, await_sizes, bag, eventually, log_like_files, split_lines,
};
use std::collections::BTreeSet;

const TOPIC: &str = "logs";

#[test]
fn three_members_print_every_line_once_and_a_second_group_all_of_them_again() {
    let cluster = Cluster::with_groups();
    let bootstrap = cluster.bootstrap();
    cluster.create_topic(TOPIC, 6, &[]);
    let folder = tempfile::tempdir().unwrap();
    let files = log_like_files(folder.path());
    let lines: Vec<Vec<u8>> =
        files.iter().flat_map(|file| split_lines(&std::fs::read(file).unwrap())).collect();

    // The members are there before the first record.
    let mut members: Vec<Member> = (0..3).map(|_| Member::start(&bootstrap, TOPIC, "first", &[])).collect();
    let group = await_sizes(&bootstrap, "first", &[2, 2, 2]);
    assert_eq!(group["assignor"], "uniform");
    assert!((1..=2).contains(&group["coordinator"]["id"].as_i64().unwrap()), "{group}");
    cluster.cli(&["produce", TOPIC]).args(&files).run().ok();
    let count = || members.iter().map(Member::count).sum::<usize>();
    eventually("every line is printed", || (count() >= lines.len()).then_some(()));
    members.iter_mut().for_each(Member::leave);
    let printed: Vec<_> = members.iter().flat_map(Member::seen).collect();
    let places: BTreeSet<_> = printed.iter().map(|record| (record.partition, record.offset)).collect();
    assert_eq!(places.len(), printed.len(), "a record was printed twice, though everybody left in peace");
    assert_eq!(printed.len(), lines.len());
    assert!(bag(printed.iter().map(|record| &record.value)) == bag(&lines), "other lines than were sent");
    for member in &members {
        let partitions: BTreeSet<_> = member.seen().iter().map(|record| record.partition).collect();
        assert_eq!(partitions.len(), 2, "each member read its share and nothing else");
    }

    // What was printed is committed, to the last record.
    let empty = await_group(&bootstrap, "first", "empty", |group| group["state"] == "empty");
    assert_eq!(empty["lag"], 0, "{empty}");
    assert!(assigned(&empty).is_empty());
    let again = |group: &str, more: &[&str]| -> Output {
        let consume = ["consume", TOPIC, "--group", group, "--auto-offset-reset", "earliest"];
        cluster.cli(&consume).args(["--timeout-ms", "5000"]).args(more).run().ok()
    };
    let count = lines.len().to_string();
    let second = again("second", &["--max-records", &count]);
    assert!(bag(split_lines(&second.stdout)) == bag(lines), "the second group gets everything");
    assert_eq!(again("first", &[]).stdout, b"", "the first group has had everything");
    let both = cluster.cli(&["group", "list"]).run().ok().text();
    assert!(both.contains("first") && both.contains("second"), "{both}");
}
