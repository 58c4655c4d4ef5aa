//! Counts what a request repeats before it is decoded: an empty element is two bytes on the wire and up to a hundred in memory,
//! so a request of a legal length could decode into hundreds of megabytes.
//!
//! Only the tags and lengths on the way to a repeated field are read. A request that is too short to exceed a bound is not
//! looked at.

use crate::error::ApiError;
use crate::v1;
use prost::encoding::decode_varint;
use std::any::TypeId;

/// Plain records in one produce request.
pub const MAX_RECORDS: usize = 100_000;
/// Headers in one produce request, over all its records.
pub const MAX_HEADERS: usize = 400_000;
/// Names, partitions and the like in any other request. What a call really takes is less, and checked behind the decoding.
pub const MAX_ELEMENTS: usize = 100_000;
/// Bytes of the shortest element on the wire: a tag and a length.
const SHORTEST: usize = 2;
/// How many counts one kind of request has at most.
const COUNTS: usize = 2;

/// A field that is looked into, or counted, or both.
struct Field {
    number: u64,
    counted: Option<Counted>,
    inside: &'static [Field],
}

struct Counted {
    // Which of the request's counts.
    at: usize,
    most: usize,
    name: &'static str,
}

const fn inside(number: u64, inside: &'static [Field]) -> Field {
    Field { number, counted: None, inside }
}

const fn counted(number: u64, name: &'static str, inside: &'static [Field]) -> Field {
    Field { number, counted: Some(Counted { at: 0, most: MAX_ELEMENTS, name }), inside }
}

const HEADERS: Field =
    Field { number: 3, counted: Some(Counted { at: 1, most: MAX_HEADERS, name: "headers" }), inside: &[] };
const RECORDS: Field = Field {
    number: 1,
    counted: Some(Counted { at: 0, most: MAX_RECORDS, name: "records" }),
    inside: &[HEADERS],
};
const PRODUCE: &[Field] = &[inside(3, &[RECORDS])];
const PRODUCE_STREAM: &[Field] = &[inside(2, PRODUCE)];
const PARTITIONS: &[Field] = &[counted(1, "partitions", &[])];
const FETCH_STREAM: &[Field] = &[inside(2, PARTITIONS), inside(3, PARTITIONS)];
const NAMES: &[Field] = &[counted(1, "names", &[])];
const TOPICS: &[Field] = &[counted(1, "topics", &[])];
const CREATE_TOPICS: &[Field] =
    &[counted(1, "topics", &[counted(4, "configs", &[]), counted(5, "assignments", &[])])];
const CREATE_PARTITIONS: &[Field] = &[counted(3, "assignments", &[])];
const SUBSCRIPTION: &[Field] = &[counted(1, "topics", &[])];
const MEMBER: &[Field] = &[inside(4, SUBSCRIPTION)];
const JOIN: &[Field] = &[inside(1, MEMBER)];
const HEARTBEAT: &[Field] = &[inside(5, SUBSCRIPTION), inside(6, TOPICS)];
const COMMIT: &[Field] = &[counted(5, "offsets", &[])];
const SECOND_TOPICS: &[Field] = &[counted(2, "topics", &[])];
const FOURTH_TOPICS: &[Field] = &[counted(4, "topics", &[])];
const GROUP_IDS: &[Field] = &[counted(1, "group_ids", &[])];
const SEEK: &[Field] = &[counted(1, "positions", &[])];
const POLL: &[Field] = &[counted(8, "seek", &[])];
const SUBSCRIBE: &[Field] = &[
    inside(1, JOIN),
    inside(3, &[counted(2, "offsets", &[])]),
    inside(5, SEEK),
    inside(6, PARTITIONS),
    inside(7, PARTITIONS),
    inside(8, SUBSCRIPTION),
];
const ALTER_CONFIGS: &[Field] = &[counted(2, "set", &[]), counted(3, "unset", &[])];

/// What is counted in messages of type `T`. The comparisons are of constants, so that no code is left of them.
fn fields_of<T: 'static>() -> &'static [Field] {
    let is = |other| TypeId::of::<T>() == other;
    if is(TypeId::of::<v1::ProduceStreamRequest>()) {
        PRODUCE_STREAM
    } else if is(TypeId::of::<v1::ProduceRequest>()) {
        PRODUCE
    } else if is(TypeId::of::<v1::FetchStreamRequest>()) {
        FETCH_STREAM
    } else if is(TypeId::of::<v1::FetchRequest>())
        || is(TypeId::of::<v1::ListOffsetsRequest>())
        || is(TypeId::of::<v1::DeleteRecordsRequest>())
    {
        PARTITIONS
    } else if is(TypeId::of::<v1::DescribeTopicsRequest>()) || is(TypeId::of::<v1::DeleteTopicsRequest>()) {
        NAMES
    } else if is(TypeId::of::<v1::MetadataRequest>()) || is(TypeId::of::<v1::WatchMetadataRequest>()) {
        TOPICS
    } else if is(TypeId::of::<v1::CreateTopicsRequest>()) {
        CREATE_TOPICS
    } else if is(TypeId::of::<v1::CreatePartitionsRequest>()) {
        CREATE_PARTITIONS
    } else if is(TypeId::of::<v1::AlterConfigsRequest>()) {
        ALTER_CONFIGS
    } else if is(TypeId::of::<v1::SubscribeRequest>()) {
        SUBSCRIBE
    } else if is(TypeId::of::<v1::HeartbeatRequest>()) {
        HEARTBEAT
    } else if is(TypeId::of::<v1::CommitOffsetsRequest>()) {
        COMMIT
    } else if is(TypeId::of::<v1::FetchOffsetsRequest>()) {
        FOURTH_TOPICS
    } else if is(TypeId::of::<v1::DeleteOffsetsRequest>()) || is(TypeId::of::<v1::ResetOffsetsRequest>()) {
        SECOND_TOPICS
    } else if is(TypeId::of::<v1::DescribeGroupsRequest>()) || is(TypeId::of::<v1::DeleteGroupsRequest>()) {
        GROUP_IDS
    } else if is(TypeId::of::<v1::JoinRequest>()) {
        JOIN
    } else if is(TypeId::of::<v1::PollRequest>()) {
        POLL
    } else {
        &[]
    }
}

/// Checks an encoded message of type `T`. Bytes that are no message are left to the decoder, which refuses them.
///
/// Errors: `INVALID_REQUEST` with the field that has too many elements.
pub fn check<T: 'static>(bytes: &[u8]) -> Result<(), ApiError> {
    let fields = fields_of::<T>();
    if fields.is_empty() || bytes.len() / SHORTEST <= MAX_RECORDS.min(MAX_ELEMENTS) {
        return Ok(());
    }
    walk(bytes, fields, &mut [0; COUNTS])
}

fn walk(mut rest: &[u8], fields: &'static [Field], counts: &mut [usize; COUNTS]) -> Result<(), ApiError> {
    while !rest.is_empty() {
        let Ok(key) = decode_varint(&mut rest) else { return Ok(()) };
        let (number, wire_type) = (key >> 3, key & 7);
        let skipped = match wire_type {
            0 => match decode_varint(&mut rest) {
                Ok(_) => continue,
                Err(_) => return Ok(()),
            },
            1 => 8,
            2 => match decode_varint(&mut rest).map(usize::try_from) {
                Ok(Ok(length)) => length,
                _ => return Ok(()),
            },
            5 => 4,
            // Groups, which this format never had; behind one nothing could be counted.
            _ => return Err(ApiError::invalid("", "the request is not encoded as proto3 asks for")),
        };
        let Some((value, behind)) = rest.split_at_checked(skipped) else { return Ok(()) };
        rest = behind;
        let known = |field: &&Field| wire_type == 2 && field.number == number;
        let Some(field) = fields.iter().find(known) else { continue };
        if let Some(Counted { at, most, name }) = &field.counted {
            counts[*at] += 1;
            if counts[*at] > *most {
                return Err(ApiError::invalid(*name, format!("send at most {most} {name} in one request")));
            }
        }
        if !field.inside.is_empty() {
            walk(value, field.inside, counts)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use thalweg_core::ErrorCode;

    fn records(count: usize, headers: usize) -> v1::ProduceRequest {
        let header = v1::Header::default();
        let record = v1::Record { headers: vec![header; headers], ..Default::default() };
        v1::ProduceRequest {
            topic: "t".into(),
            payload: Some(v1::produce_request::Payload::Records(v1::RecordSet {
                records: vec![record; count],
            })),
            acks: 3,
            ..Default::default()
        }
    }

    fn refused<T: Message + 'static>(message: &T) -> Option<String> {
        let error = check::<T>(&message.encode_to_vec()).err()?;
        assert_eq!(error.code, ErrorCode::InvalidRequest);
        error.field
    }

    #[test]
    fn as_many_as_allowed_pass_and_one_more_does_not() {
        let stream = |produce| v1::ProduceStreamRequest {
            correlation_id: 7,
            produce: Some(produce),
            ..Default::default()
        };
        assert_eq!(refused(&records(MAX_RECORDS, 1)), None);
        assert_eq!(refused(&stream(records(MAX_RECORDS, 1))), None);
        assert_eq!(refused(&records(MAX_RECORDS + 1, 0)).as_deref(), Some("records"));
        assert_eq!(refused(&stream(records(MAX_RECORDS + 1, 0))).as_deref(), Some("records"));
        assert_eq!(refused(&records(4, MAX_HEADERS / 4)), None);
        assert_eq!(refused(&records(4, MAX_HEADERS / 4 + 1)).as_deref(), Some("headers"));
        let names = |count| v1::MetadataRequest { topics: vec![String::new(); count] };
        assert_eq!(refused(&names(MAX_ELEMENTS)), None);
        assert_eq!(refused(&names(MAX_ELEMENTS + 1)).as_deref(), Some("topics"));
        let offsets = |count| vec![v1::OffsetToCommit::default(); count];
        let commit = |count| v1::CommitOffsetsRequest { offsets: offsets(count), ..Default::default() };
        assert_eq!(refused(&commit(MAX_ELEMENTS)), None);
        assert_eq!(refused(&commit(MAX_ELEMENTS + 1)).as_deref(), Some("offsets"));
        let command =
            v1::SubscribeCommit { commit_id: 1, offsets: offsets(MAX_ELEMENTS + 1), ..Default::default() };
        let command = Some(v1::subscribe_request::Command::Commit(command));
        let subscribe = v1::SubscribeRequest { command, dealt_with: None };
        assert_eq!(refused(&subscribe).as_deref(), Some("offsets"));
    }

    #[test]
    fn elements_in_several_pieces_are_added_up() {
        // A decoder merges what comes twice.
        let mut bytes = records(MAX_RECORDS, 0).encode_to_vec();
        assert!(check::<v1::ProduceRequest>(&bytes).is_ok());
        bytes.extend(records(1, 0).encode_to_vec());
        assert!(check::<v1::ProduceRequest>(&bytes).is_err());
    }

    #[test]
    fn a_large_payload_and_garbage_are_left_to_the_decoder() {
        let payload = v1::produce_request::Payload::RecordBatch(vec![0x0b; 1 << 20].into());
        let batch = v1::ProduceRequest { payload: Some(payload), ..Default::default() };
        assert_eq!(refused(&batch), None);
        let encoded = records(50_000, 1).encode_to_vec();
        for cut in [1, 5, encoded.len() / 2, encoded.len() - 1] {
            assert!(check::<v1::ProduceRequest>(&encoded[..cut]).is_ok());
        }
        // A group: what stands behind it would not be counted.
        let mut group = vec![0x7b; 8];
        group.extend(records(MAX_RECORDS + 1, 0).encode_to_vec());
        assert!(check::<v1::ProduceRequest>(&group).is_err());
    }
}
