//! What a poll reads, and how it waits for it.

use super::{Found, Polling, Wanted, failed, nothing};
use crate::forward;
use crate::group::call::{Caller, PATIENCE};
use crate::group::check;
use crate::group::cursor::{NOWHERE, UNRESOLVED};
use crate::group::options::{Reset, millis};
use crate::group::starts::{self, Named};
use crate::in_flight::Charge;
use crate::node::Node;
use crate::read::decode;
use std::time::Duration;
use thalweg_core::group::assignor::TopicIdPartition;
use thalweg_core::{ErrorCode, Offset, PartitionId, Retriable};
use thalweg_proto::v1::partition_data::Data;
use thalweg_proto::{ApiError, v1};
use tokio::time::Instant;

const MAX_WAIT_MS: u32 = crate::read::fetch::MAX_WAIT_MS;
/// What is read for each record that is asked for, in bytes: what is read beyond the records asked for is read in vain.
const BYTES_A_RECORD: usize = 2048;
/// Bytes that are read at least.
const LEAST_BYTES: usize = 64 << 10;
/// Between two heartbeats of a waiting poll that told nothing.
const PAUSE: Duration = Duration::from_millis(500);

impl Polling<'_> {
    /// Reads until there is something to tell, or the time is over.
    pub(super) async fn read(&mut self, wanted: &Wanted) -> Result<Found, ApiError> {
        let mut found = Found { partitions: Vec::new(), charge: self.node.answers.charge(0) };
        // First what is there: a busy member needs no held heartbeat.
        let mut waits = false;
        loop {
            self.resolve(&mut found).await?;
            let at_once =
                !waits || self.has_news() || wanted.min_bytes == 0 || Instant::now() >= wanted.until;
            let request = self.fetch_request(wanted, at_once);
            let fetched = match (request, at_once) {
                (Some(request), true) => Some(self.fetch(request).await),
                (None, true) => None,
                (request, false) => match self.wait(request, wanted).await? {
                    Waited::Fetched(fetched) => Some(fetched),
                    Waited::Changed => {
                        self.beat().await?;
                        continue;
                    }
                    Waited::TimeIsOver => None,
                },
            };
            let again = match fetched {
                Some(fetched) => self.take(fetched?, wanted, &mut found).await?,
                None => false,
            };
            let is_over = self.has_news() || wanted.min_bytes == 0 || Instant::now() >= wanted.until;
            if !again && (!found.partitions.is_empty() || is_over) {
                return Ok(found);
            }
            waits = !again;
        }
    }

    /// Finds where new partitions begin. What cannot be found yet is tried with the next poll.
    async fn resolve(&mut self, found: &mut Found) -> Result<(), ApiError> {
        let image = self.node.metadata.snapshot();
        let open =
            self.cursor.places.iter().filter(|(_, place)| place.next == UNRESOLVED && !place.is_revoking);
        let named: Vec<Named> =
            open.filter_map(|(at, _)| Some((*at, image.topic_by_id(at.topic)?.name.clone()))).collect();
        if named.is_empty() {
            return Ok(());
        }
        for start in starts::find(self.node, self.caller, &self.reading(), named).await? {
            let Some(place) = self.cursor.places.get_mut(&start.at) else { continue };
            place.committed = start.committed.unwrap_or(-1);
            match start.next {
                Ok(next) => place.next = next.unwrap_or(NOWHERE),
                Err(error) => found.partitions.push(failed(&start.topic, start.at, &error)),
            }
        }
        Ok(())
    }

    /// The partitions to read, each in its turn.
    fn fetch_request(&self, wanted: &Wanted, at_once: bool) -> Option<v1::FetchRequest> {
        let image = self.node.metadata.snapshot();
        let readable = self.cursor.places.iter().filter(|(_, place)| place.next >= 0 && !place.is_revoking);
        let mut partitions: Vec<_> = readable
            .filter_map(|(at, place)| {
                Some(v1::FetchPartition {
                    topic: image.topic_by_id(at.topic)?.name.to_string(),
                    partition: at.partition.get(),
                    offset: place.next,
                    ..Default::default()
                })
            })
            .collect();
        if partitions.is_empty() {
            return None;
        }
        let turn = self.cursor.turn as usize % partitions.len();
        partitions.rotate_left(turn);
        partitions.truncate(crate::read::fetch::MAX_PARTITIONS);
        let left = wanted.until.saturating_duration_since(Instant::now());
        let records = usize::try_from(wanted.records).unwrap_or(usize::MAX);
        let bytes = records.saturating_mul(BYTES_A_RECORD).max(LEAST_BYTES).min(wanted.bytes);
        Some(v1::FetchRequest {
            partitions,
            min_bytes: Some(wanted.min_bytes.min(u32::try_from(bytes).unwrap_or(u32::MAX))),
            max_wait_ms: Some(if at_once { 0 } else { millis(left).min(MAX_WAIT_MS) }),
            max_bytes: u32::try_from(bytes).ok(),
            isolation_level: self.cursor.isolation,
            // Whatever the client wants: only what goes into the answer is decoded.
            format: v1::RecordFormat::Batches as i32,
            routing: v1::Routing::AnyBroker as i32,
        })
    }

    async fn fetch(&self, request: v1::FetchRequest) -> Result<(v1::FetchResponse, Charge), ApiError> {
        fetch(self.node, self.caller, request).await
    }

    /// Waits for data and keeps the session meanwhile.
    async fn wait(&self, request: Option<v1::FetchRequest>, wanted: &Wanted) -> Result<Waited, ApiError> {
        let fetching = async {
            match request {
                Some(request) => fetch(self.node, self.caller, request).await,
                None => std::future::pending().await,
            }
        };
        let end = tokio::time::sleep_until(wanted.until);
        tokio::pin!(fetching, end);
        tokio::select! {
            biased;
            fetched = &mut fetching => Ok(Waited::Fetched(fetched)),
            changed = self.hold(wanted.until) => changed.map(|()| Waited::Changed),
            () = &mut end => Ok(Waited::TimeIsOver),
            () = self.node.shutdown.triggered() => Err(crate::refusal::shutting_down()),
        }
    }

    /// Held heartbeats, until one of them tells something. Errors: the member is out.
    async fn hold(&self, until: Instant) -> Result<(), ApiError> {
        loop {
            let started = Instant::now();
            let left = until.saturating_duration_since(started);
            let wait = left.min(check::longest_wait(self.cursor.session)).min(self.cursor.session / 3);
            let request = v1::HeartbeatRequest { max_wait_ms: Some(millis(wait)), ..self.request() };
            match self.heartbeat(request).await {
                Ok(answer) if answer.member_epoch != self.cursor.epoch.0 || answer.assignment.is_some() => {
                    return Ok(());
                }
                Ok(_) => {}
                // Records may be read while no coordinator is there.
                Err(error) if error.retriable() != Retriable::No => {
                    tracing::debug!(%error, group = %self.group, "a waiting poll's heartbeat failed");
                }
                Err(error) => return Err(error),
            }
            // An answer before its time, that tells nothing: somebody else speaks for the member too.
            if started.elapsed() < wait / 2 || wait < PAUSE {
                tokio::time::sleep(PAUSE.min(left)).await;
            }
        }
    }

    /// Takes what was read into the answer. Says whether to read again at once, from elsewhere.
    async fn take(
        &mut self,
        fetched: (v1::FetchResponse, Charge),
        wanted: &Wanted,
        found: &mut Found,
    ) -> Result<bool, ApiError> {
        let (response, charge) = fetched;
        found.charge.grow(charge.bytes());
        let image = self.node.metadata.snapshot();
        let (mut records, mut bytes) = (wanted.records, wanted.bytes);
        let mut outside: Vec<Named> = Vec::new();
        let mut scratch = Vec::new();
        for mut data in response.partitions {
            let Some(topic) = image.topic(&data.topic) else { continue };
            let at = TopicIdPartition { topic: topic.id, partition: PartitionId(data.partition) };
            let Some(place) = self.cursor.places.get_mut(&at) else { continue };
            if let Some(error) = data.error.as_ref().map(ApiError::from_proto) {
                match error.code {
                    ErrorCode::OffsetOutOfRange if self.cursor.reset != Reset::None => {
                        outside.push((at, topic.name.clone()));
                    }
                    ErrorCode::OffsetOutOfRange => place.next = NOWHERE,
                    _ => found.partitions.push(data),
                }
                continue;
            }
            if records == 0 || bytes == 0 {
                continue;
            }
            let Some(Data::RecordBatches(batches)) = data.data.take() else { continue };
            let size = batches.len();
            if Format::is_plain(self.cursor.format) {
                let terms = decode::Wanted {
                    from: Offset(place.next),
                    until: None,
                    max_bytes: bytes,
                    max_records: records,
                    max_inflated_bytes: self.node.config.limits.max_inflated_bytes,
                };
                let decoded = match decode::decode(&batches, terms, &mut scratch) {
                    Ok(decoded) => decoded,
                    Err(error) => {
                        let message = format!("a stored batch cannot be read: {error}");
                        let error = ApiError::new(ErrorCode::StorageError, message);
                        found.partitions.push(failed(&topic.name, at, &error));
                        continue;
                    }
                };
                place.next = decoded.next_offset.get();
                if decoded.records.is_empty() {
                    continue;
                }
                // What was inflated is memory on top of what was read.
                found.charge.grow(decoded.bytes.saturating_sub(size));
                records = records.saturating_sub(decoded.records.len() as u64);
                bytes = bytes.saturating_sub(decoded.bytes);
                data.data = Some(Data::Records(v1::RecordSet { records: decoded.records }));
            } else {
                place.next = data.next_offset;
                records = records.saturating_sub(decode::count_records(&batches));
                bytes = bytes.saturating_sub(size);
                data.data = Some(Data::RecordBatches(batches));
            }
            data.next_offset = place.next;
            self.cursor.turn = self.cursor.turn.wrapping_add(1);
            found.partitions.push(data);
        }
        if outside.is_empty() {
            return Ok(false);
        }
        let starts = starts::reset(self.node, self.caller, &self.reading(), &outside).await;
        let mut moved = false;
        for ((at, topic), next) in outside.iter().zip(starts) {
            match (next, self.cursor.places.get_mut(at)) {
                (Ok(Some(next)), Some(place)) => {
                    moved |= place.next != next;
                    place.next = next;
                }
                (Err(error), _) => found.partitions.push(failed(topic, *at, &error)),
                _ => {}
            }
        }
        Ok(moved && found.partitions.is_empty())
    }
}

enum Waited {
    Fetched(Result<(v1::FetchResponse, Charge), ApiError>),
    Changed,
    TimeIsOver,
}

struct Format;

impl Format {
    fn is_plain(number: i32) -> bool {
        number != v1::RecordFormat::Batches as i32
    }
}

async fn fetch(
    node: &Node,
    caller: &Caller,
    request: v1::FetchRequest,
) -> Result<(v1::FetchResponse, Charge), ApiError> {
    // A long poll that finds no leader looks for one as long as it would have waited, or a little longer.
    let alone = match request.partitions.as_slice() {
        [only] => Some((only.topic.clone(), only.partition)),
        _ => None,
    };
    let deadline = caller
        .deadline
        .unwrap_or_else(|| Instant::now() + Duration::from_millis(request.max_wait_ms().into()) + PATIENCE);
    match forward::fetch::fetch(node, request, Some(deadline)).await {
        // A single partition's error is the call's.
        Err(error) if error.code != ErrorCode::Throttled && alone.is_some() => {
            let (topic, partition) = alone.unwrap_or_default();
            let data = v1::PartitionData { error: Some(error.to_proto()), ..nothing(topic, partition) };
            Ok((v1::FetchResponse { partitions: vec![data] }, node.answers.charge(0)))
        }
        outcome => outcome,
    }
}
