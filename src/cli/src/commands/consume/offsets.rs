//! What consumer groups wrote to `__consumer_offsets`, for people and programs.

use crate::format::bytes_json;
use serde_json::{Map, Value, json};
use thalweg_core::batch::RecordView;
use thalweg_core::group::records::RecordError;
use thalweg_core::group::state::Partitions;
use thalweg_core::group::{Change, GroupRecord, decode_lease_marker};

/// A record as `Key: value` fields behind tabs.
pub fn text(record: &RecordView<'_>) -> String {
    let field = |(name, value): (&String, &Value)| {
        let value = match value {
            Value::String(text) => text.escape_debug().to_string(),
            Value::Null => "none".to_owned(),
            other => other.to_string(),
        };
        format!("{}: {value}", title(name))
    };
    decode(record).iter().map(field).collect::<Vec<_>>().join("\t")
}

/// A record as one JSON object, with where it lies.
pub fn json(partition: i32, record: &RecordView<'_>) -> Value {
    let mut fields = decode(record);
    fields.insert("log_partition".to_owned(), json!(partition));
    fields.insert("log_offset".to_owned(), json!(record.offset.get()));
    fields.insert("timestamp".to_owned(), json!(record.timestamp.as_millis()));
    Value::Object(fields)
}

/// `leader_epoch` as `LeaderEpoch`.
fn title(name: &str) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
    };
    name.split('_').map(capital).collect()
}

fn decode(record: &RecordView<'_>) -> Map<String, Value> {
    let key = record.key.unwrap_or_default();
    let mut fields = Map::new();
    let rest = match GroupRecord::decode(key, record.value) {
        Ok(decoded) => {
            fields.insert("group".to_owned(), json!(decoded.group.as_str()));
            change(&decoded.change)
        }
        Err(RecordError::UnknownKind(kind)) => match decode_lease_marker(key, record.value) {
            // A coordinator's mark that the partition is its own from here on.
            Ok(Some(marker)) => json!({
                "kind": "lease",
                "coordinator": marker.coordinator.get(),
                "epoch": marker.epoch.get(),
            }),
            _ => json!({"kind": kind, "value": bytes_json(record.value)}),
        },
        Err(error) => json!({"error": error.to_string(), "key": bytes_json(record.key)}),
    };
    if let Value::Object(rest) = rest {
        fields.extend(rest);
    }
    fields
}

fn change(change: &Change) -> Value {
    match change {
        Change::Offset(topic, partition, None) => json!({
            "kind": "offset",
            "topic": topic.as_str(),
            "partition": partition.get(),
            "offset": null,
        }),
        Change::Offset(topic, partition, Some(committed)) => json!({
            "kind": "offset",
            "topic": topic.as_str(),
            "partition": partition.get(),
            "offset": committed.offset.get(),
            "leader_epoch": committed.leader_epoch.get(),
            "metadata": &*committed.metadata,
            "committed_at": committed.at.as_millis(),
        }),
        Change::Group(None) => json!({"kind": "group", "deleted": true}),
        Change::Group(Some(group)) => json!({
            "kind": "group",
            "epoch": group.epoch,
            "target_epoch": group.target_epoch,
            "assignor": group.assignor,
        }),
        Change::Member(member, value) => json!({
            "kind": "member",
            "member": member.as_str(),
            "instance": value.as_ref().and_then(|value| Some(value.instance.as_ref()?.as_str())),
            "client": value.as_ref().map(|value| &*value.client_id),
            "gone": value.is_none(),
        }),
        Change::Target(member, target) => json!({
            "kind": "target",
            "member": member.as_str(),
            "partitions": target.as_ref().map(|target| listed(target)),
        }),
        Change::Current(member, current) => json!({
            "kind": "current",
            "member": member.as_str(),
            "epoch": current.as_ref().map(|current| current.epoch),
            "partitions": current.as_ref().map(|current| {
                current.owned.keys().map(|one| format!("{}-{}", one.topic, one.partition)).collect::<Vec<_>>()
            }),
        }),
    }
}

fn listed(partitions: &Partitions) -> Vec<String> {
    partitions.iter().map(|one| format!("{}-{}", one.topic, one.partition)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_core::group::{CommittedOffset, GroupId, lease_marker};
    use thalweg_core::{CoordinatorId, LeaderEpoch, LeaseEpoch, Offset, PartitionId, Timestamp, TopicName};

    fn view<'a>(key: &'a [u8], value: Option<&'a [u8]>) -> RecordView<'a> {
        RecordView {
            offset: Offset(5),
            timestamp: Timestamp(1_700_000_000_000),
            key: Some(key),
            value,
            headers: Default::default(),
        }
    }

    #[test]
    fn a_committed_offset_is_told_in_words() {
        let record = GroupRecord {
            group: GroupId::new("billing").unwrap(),
            change: Change::Offset(
                TopicName::new("events").unwrap(),
                PartitionId(3),
                Some(CommittedOffset {
                    offset: Offset(42),
                    leader_epoch: LeaderEpoch(1),
                    metadata: "tab\there".into(),
                    at: Timestamp(7),
                    topic: None,
                }),
            ),
        };
        let (key, value) = record.encode();
        let line = text(&view(&key, value.as_deref()));
        for field in ["Group: billing", "Topic: events", "Partition: 3", "Offset: 42", "Metadata: tab\\there"]
        {
            assert!(line.split('\t').any(|found| found == field), "{field}: {line}");
        }
        let value = json(9, &view(&key, value.as_deref()));
        assert_eq!(
            (&value["offset"], &value["log_partition"], &value["log_offset"]),
            (&json!(42), &json!(9), &json!(5))
        );
        let forgotten = json(9, &view(&key, None));
        assert_eq!((&forgotten["kind"], &forgotten["offset"]), (&json!("offset"), &Value::Null));
    }

    #[test]
    fn what_is_not_known_is_shown_and_not_hidden() {
        assert_eq!(json(0, &view(&999i16.to_be_bytes(), Some(b"x")))["kind"], 999);
        let (key, value) = lease_marker(LeaseEpoch(3), CoordinatorId(7));
        let line = text(&view(&key, Some(&value)));
        assert_eq!(line, "Kind: lease\tCoordinator: 7\tEpoch: 3");
        assert!(text(&view(b"\0", None)).contains("Error: "));
    }
}
