//! `thalweg group describe`.

use super::{not_done, state_name};
use crate::args::{Global, OutputFormat};
use crate::error::CliError;
use crate::output::{print_json, print_line, table};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use thalweg_client::{Admin, proto};
use thalweg_core::group::MemberEpoch;

/// Prints the groups; of several each in one call, so that one that is not known does not hide the others.
pub async fn run(global: &Global, admin: &Admin, groups: &[String]) -> Result<(), CliError> {
    let mut described = Vec::with_capacity(groups.len());
    for group in groups {
        let found = admin.describe_group(group).await.map_err(|error| not_done(error, Some(group)))?;
        described.push(found);
    }
    match global.output {
        OutputFormat::Text => {
            for (index, group) in described.iter().enumerate() {
                if index > 0 {
                    print_line("")?;
                }
                text(group).iter().try_for_each(|line| print_line(line))?;
            }
            Ok(())
        }
        OutputFormat::Json => print_json(&match described.as_slice() {
            [only] => as_json(only),
            several => Value::Array(several.iter().map(as_json).collect()),
        }),
    }
}

fn text(group: &proto::GroupDescription) -> Vec<String> {
    let mut lines = vec![format!(
        "Group: {}\tState: {}\tMembers: {}\tAssignor: {}\tCoordinator: {} ({})\tEpoch: {}\tLag: {}",
        group.group_id,
        state_name(group.state()),
        group.members.len(),
        group.assignor,
        group.coordinator_id,
        group.coordinator_endpoint,
        group.group_epoch,
        total_lag(group).map_or("unknown".to_owned(), |lag| lag.to_string()),
    )];
    if !group.members.is_empty() {
        lines.push(String::new());
        lines.extend(table(&members(group)));
    }
    if !group.partitions.is_empty() {
        lines.push(String::new());
        lines.extend(table(&partitions(group)));
    }
    lines
}

fn members(group: &proto::GroupDescription) -> Vec<Vec<String>> {
    let mut rows =
        vec![["MEMBER", "INSTANCE", "CLIENT", "HOST", "EPOCH", "PARTITIONS"].map(str::to_owned).to_vec()];
    rows.extend(group.members.iter().map(|member| {
        let assigned = short(&member.assigned);
        vec![
            member.member_id.clone(),
            dash(&member.instance_id),
            dash(&member.client_id),
            dash(&member.host),
            if is_away(member) { "away".to_owned() } else { member.member_epoch.to_string() },
            match (assigned.is_empty(), is_idle(group, member)) {
                (false, _) => assigned,
                (true, true) => "none: more members than partitions, it idles".to_owned(),
                (true, false) => "none".to_owned(),
            },
        ]
    }));
    rows
}

/// Whether it is a static member that left for now: it keeps its partitions until its session is over.
fn is_away(member: &proto::GroupMember) -> bool {
    member.member_epoch == MemberEpoch::LEAVE_FOR_NOW.0
}

/// Whether nothing is or will be left for this member.
fn is_idle(group: &proto::GroupDescription, member: &proto::GroupMember) -> bool {
    let count = |partitions: &[proto::TopicPartitions]| -> usize {
        partitions.iter().map(|topic| topic.partitions.len()).sum()
    };
    group.state() == proto::GroupState::Stable && count(&member.assigned) == 0 && count(&member.target) == 0
}

fn partitions(group: &proto::GroupDescription) -> Vec<Vec<String>> {
    let mut rows = vec![
        ["TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-END-OFFSET", "LAG", "MEMBER", "METADATA"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let number = |number: Option<i64>| number.map_or("-".to_owned(), |number| number.to_string());
    rows.extend(group.partitions.iter().map(|partition| {
        vec![
            partition.topic.clone(),
            partition.partition.to_string(),
            number(partition.committed_offset),
            number(partition.log_end_offset),
            number(partition.lag),
            dash(&partition.member_id),
            // A tab or newline of the committer's would break the table.
            dash(&partition.metadata.escape_debug().to_string()),
        ]
    }));
    rows
}

/// The sum of what is known; none if a committed partition's end is not.
fn total_lag(group: &proto::GroupDescription) -> Option<i64> {
    let committed = group.partitions.iter().filter(|partition| partition.committed_offset.is_some());
    committed.map(|partition| partition.lag).sum()
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// `events:0,1,2 audit:0`.
pub fn short(partitions: &[proto::TopicPartitions]) -> String {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for topic in partitions {
        topics.entry(&topic.topic).or_default().extend(&topic.partitions);
    }
    let one = |(topic, mut numbers): (&str, Vec<i32>)| {
        numbers.sort_unstable();
        let numbers: Vec<String> = numbers.iter().map(i32::to_string).collect();
        format!("{topic}:{}", numbers.join(","))
    };
    topics.into_iter().filter(|(_, numbers)| !numbers.is_empty()).map(one).collect::<Vec<_>>().join(" ")
}

fn as_json(group: &proto::GroupDescription) -> Value {
    let by_topic = |partitions: &[proto::TopicPartitions]| -> Vec<Value> {
        partitions.iter().map(|topic| json!({"topic": topic.topic, "partitions": topic.partitions})).collect()
    };
    let member = |member: &proto::GroupMember| {
        let subscription = member.subscription.clone().unwrap_or_default();
        json!({
            "id": member.member_id,
            "instance": (!member.instance_id.is_empty()).then_some(&member.instance_id),
            "client": member.client_id,
            "host": member.host,
            "epoch": member.member_epoch,
            "topics": subscription.topics,
            "pattern": (!subscription.pattern.is_empty()).then_some(subscription.pattern),
            "assigned": by_topic(&member.assigned),
            "target": by_topic(&member.target),
            "idle": is_idle(group, member),
            "away": is_away(member),
        })
    };
    let partition = |partition: &proto::GroupPartition| {
        json!({
            "topic": partition.topic,
            "partition": partition.partition,
            "current_offset": partition.committed_offset,
            "log_end_offset": partition.log_end_offset,
            "lag": partition.lag,
            "member": (!partition.member_id.is_empty()).then_some(&partition.member_id),
            "metadata": partition.metadata,
        })
    };
    json!({
        "group": group.group_id,
        "state": state_name(group.state()),
        "coordinator": {"id": group.coordinator_id, "endpoint": group.coordinator_endpoint},
        "assignor": group.assignor,
        "group_epoch": group.group_epoch,
        "assignment_epoch": group.assignment_epoch,
        "lag": total_lag(group),
        "members": group.members.iter().map(member).collect::<Vec<_>>(),
        "partitions": group.partitions.iter().map(partition).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(topic: &str, partitions: &[i32]) -> proto::TopicPartitions {
        proto::TopicPartitions {
            topic: topic.to_owned(),
            partitions: partitions.to_vec(),
            ..Default::default()
        }
    }

    fn group() -> proto::GroupDescription {
        let member = |id: &str, assigned: Vec<proto::TopicPartitions>| proto::GroupMember {
            member_id: id.to_owned(),
            member_epoch: 4,
            target: assigned.clone(),
            assigned,
            ..Default::default()
        };
        let partition = |partition, committed_offset, lag| proto::GroupPartition {
            topic: "t".to_owned(),
            partition,
            committed_offset,
            log_end_offset: Some(10),
            lag,
            ..Default::default()
        };
        proto::GroupDescription {
            group_id: "g".to_owned(),
            state: proto::GroupState::Stable.into(),
            members: vec![member("m1", vec![some("t", &[1, 0])]), member("m2", Vec::new())],
            partitions: vec![partition(0, Some(7), Some(3)), partition(1, None, None)],
            ..Default::default()
        }
    }

    #[test]
    fn a_member_without_a_share_is_said_to_idle() {
        let lines = text(&group());
        assert!(lines[0].contains("State: stable\tMembers: 2") && lines[0].ends_with("Lag: 3"), "{lines:?}");
        let line = |begin: &str| lines.iter().find(|line| line.starts_with(begin)).unwrap();
        assert!(line("m1").ends_with("t:0,1"), "{lines:?}");
        assert!(line("m2").ends_with("it idles"), "{lines:?}");
        let json = as_json(&group());
        assert_eq!((&json["members"][1]["idle"], &json["members"][1]["away"]), (&json!(true), &json!(false)));
        assert_eq!(json["partitions"][0]["lag"], 3);
        assert_eq!(json["partitions"][1]["current_offset"], Value::Null);
    }

    #[test]
    fn a_lag_that_is_not_known_is_not_taken_for_none() {
        let mut group = group();
        group.partitions[0].lag = None;
        assert_eq!(total_lag(&group), None);
        assert!(text(&group)[0].ends_with("Lag: unknown"));
    }

    #[test]
    fn partitions_are_told_by_topic_in_order() {
        let partitions = [some("b", &[2]), some("a", &[1, 0]), some("c", &[])];
        assert_eq!(short(&partitions), "a:0,1 b:2");
    }
}
