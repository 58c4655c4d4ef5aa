//! The unary Fetch, at whichever brokers lead.
//!
//! One leader is asked once, and waits for data itself. Several are first asked for what they have; if that is not enough, all
//! of them wait, and the first that has something ends it: a fetch changes nothing, so that the others' calls are simply
//! dropped.

use super::outcome::{Failure, is_elsewhere};
use super::patience::Patience;
use super::route::{Route, route};
use crate::in_flight::Charge;
use crate::node::Node;
use crate::read;
use crate::read::fetch::{DEFAULT_MAX_WAIT_MS, MAX_PARTITIONS, MAX_WAIT_MS};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::BTreeMap;
use std::time::Duration;
use thalweg_core::{BrokerId, Offset};
use thalweg_proto::v1::consumer_service_client::ConsumerServiceClient;
use thalweg_proto::v1::partition_data::Data;
use thalweg_proto::{ApiError, v1};
use tokio::time::Instant;
use tonic_prost::prost::Message;

/// Bytes that another broker is asked for at once; a client that wants more asks again.
const FORWARDED_BYTES: usize = 8 * 1024 * 1024;
/// How long leaders are looked for when the call's own wait is shorter.
const LEADER_PATIENCE: Duration = Duration::from_secs(5);
/// For an answer to travel, on top of the wait for data.
const TRAVEL: Duration = Duration::from_secs(5);

/// Serves one call. `deadline` is when the answer must leave, if the call has one. The charge is to be kept as long as the
/// answer is.
pub async fn fetch(
    node: &Node,
    request: v1::FetchRequest,
    deadline: Option<Instant>,
) -> Result<(v1::FetchResponse, Charge), ApiError> {
    if is_local(node, &request) {
        return read::fetch::fetch(node, request, deadline).await;
    }
    let max_wait = Duration::from_millis(request.max_wait_ms.unwrap_or(DEFAULT_MAX_WAIT_MS).into());
    let sooner = |until: Instant| deadline.map_or(until, |deadline| until.min(deadline));
    let wait_until = sooner(Instant::now() + max_wait);
    let mut patience = Patience::new(node, sooner(wait_until.max(Instant::now() + LEADER_PATIENCE)));
    let alone = request.partitions.len() == 1;
    loop {
        patience.look();
        let mut round = Round::new(node, &request, wait_until, sooner(wait_until + TRAVEL));
        round.run().await;
        if round.bytes == 0 && round.is_unsettled && patience.wait(node).await {
            continue;
        }
        return round.answer(alone);
    }
}

fn is_local(node: &Node, request: &v1::FetchRequest) -> bool {
    let any = v1::Routing::try_from(request.routing).is_ok_and(|routing| routing != v1::Routing::LeaderOnly);
    // What is to be refused is refused here.
    !any || request.partitions.len() > MAX_PARTITIONS
        || request.max_wait_ms.is_some_and(|ms| ms > MAX_WAIT_MS)
        || request.partitions.iter().all(|wanted| {
            matches!(route(node, &wanted.topic, wanted.partition), Route::Here | Route::Refused(_))
        })
}

/// One look at all leaders, by the metadata of the moment.
struct Round<'a> {
    node: &'a Node,
    request: &'a v1::FetchRequest,
    by_leader: BTreeMap<Option<BrokerId>, Vec<v1::FetchPartition>>,
    // `None` is this broker.
    answers: BTreeMap<Option<BrokerId>, (Vec<v1::PartitionData>, Charge)>,
    errors: Vec<(String, i32, ApiError)>,
    bytes: usize,
    // An error that may pass.
    is_unsettled: bool,
    wait_until: Instant,
    answer_until: Instant,
}

impl<'a> Round<'a> {
    fn new(
        node: &'a Node,
        request: &'a v1::FetchRequest,
        wait_until: Instant,
        answer_until: Instant,
    ) -> Self {
        let mut round = Round {
            node,
            request,
            by_leader: BTreeMap::new(),
            answers: BTreeMap::new(),
            errors: Vec::new(),
            bytes: 0,
            is_unsettled: false,
            wait_until,
            answer_until,
        };
        for wanted in &request.partitions {
            match route(node, &wanted.topic, wanted.partition) {
                Route::Here => round.by_leader.entry(None).or_default().push(wanted.clone()),
                Route::There(leader) => {
                    round.by_leader.entry(Some(leader)).or_default().push(wanted.clone());
                }
                Route::Nobody(error) => round.refuse(wanted, Failure::Refused(error)),
                Route::Refused(error) => round.refuse(wanted, Failure::Told(error)),
            }
        }
        round
    }

    async fn run(&mut self) {
        let leaders: Vec<_> = self.by_leader.keys().copied().collect();
        if leaders.len() > 1 || !self.errors.is_empty() {
            self.ask(&leaders, true).await;
            let enough = self.request.min_bytes.unwrap_or(1) as usize;
            if self.bytes >= enough || !self.errors.is_empty() {
                return;
            }
        }
        if Instant::now() < self.wait_until || leaders.len() == 1 {
            self.ask(&leaders, false).await;
        }
    }

    /// Asks the leaders at once. With `all`, each answers with what it has and all are waited for; else each waits for data,
    /// and the first with something to tell ends it.
    async fn ask(&mut self, leaders: &[Option<BrokerId>], all: bool) {
        let share = leaders.len().max(1);
        let mut asked: FuturesUnordered<_> = leaders
            .iter()
            .map(|leader| {
                let request = self.part(*leader, share, all);
                let (node, until) = (self.node, self.answer_until);
                async move { (*leader, ask(node, *leader, request, until).await) }
            })
            .collect();
        while let Some((leader, answer)) = asked.next().await {
            let told = self.take(leader, answer);
            if told && !all {
                return;
            }
        }
    }

    fn part(&self, leader: Option<BrokerId>, share: usize, at_once: bool) -> v1::FetchRequest {
        let most = self.node.config.limits.max_fetch_bytes;
        let wanted = self.request.max_bytes.map_or(most, |bytes| bytes as usize).min(most);
        let share = (wanted / share).max(1);
        let share = if leader.is_some() { share.min(FORWARDED_BYTES) } else { share };
        let left = self.wait_until.saturating_duration_since(Instant::now()).as_millis();
        let wait = if at_once { 0 } else { u32::try_from(left).unwrap_or(MAX_WAIT_MS).min(MAX_WAIT_MS) };
        v1::FetchRequest {
            partitions: self.by_leader.get(&leader).cloned().unwrap_or_default(),
            max_wait_ms: Some(wait),
            max_bytes: u32::try_from(share).ok(),
            routing: v1::Routing::LeaderOnly as i32,
            min_bytes: self.request.min_bytes,
            isolation_level: self.request.isolation_level,
            format: self.request.format,
        }
    }

    /// Whether there was data or an error in it.
    fn take(&mut self, leader: Option<BrokerId>, answer: Result<Answer, Failure>) -> bool {
        match answer {
            Ok((response, charge)) => {
                let (refused, data): (Vec<_>, Vec<_>) =
                    response.partitions.into_iter().partition(|data| data.error.is_some());
                let told = !refused.is_empty() || !data.is_empty();
                for data in refused {
                    let failure = data.error.as_ref().map(ApiError::from_proto).map(Failure::of_error);
                    self.fail(data.topic, data.partition, failure);
                }
                self.bytes += data.iter().map(size).sum::<usize>();
                if let Some((before, _)) = self.answers.insert(leader, (data, charge)) {
                    self.bytes -= before.iter().map(size).sum::<usize>();
                }
                told
            }
            Err(failure) => {
                for wanted in self.by_leader.get(&leader).cloned().unwrap_or_default() {
                    self.refuse(&wanted, failure.clone());
                }
                true
            }
        }
    }

    fn refuse(&mut self, wanted: &v1::FetchPartition, failure: Failure) {
        self.fail(wanted.topic.clone(), wanted.partition, Some(failure));
    }

    fn fail(&mut self, topic: String, partition: i32, failure: Option<Failure>) {
        let Some(failure) = failure else { return };
        // To read again does no harm.
        self.is_unsettled |= !matches!(failure, Failure::Told(_));
        self.errors.push((topic, partition, failure.into_error()));
    }

    fn answer(self, alone: bool) -> Result<Answer, ApiError> {
        if alone && let Some((_, _, error)) = self.errors.first() {
            return Err(error.clone());
        }
        let most = self.request.max_bytes.map_or(usize::MAX, |bytes| bytes as usize);
        let mut whole = self.node.answers.charge(0);
        let mut partitions = Vec::new();
        let mut bytes = 0;
        for (data, charge) in self.answers.into_values() {
            whole.grow(charge.bytes());
            for data in data {
                let size = size(&data);
                // The first comes whatever its size; what is left out is asked for again.
                if bytes == 0 || bytes + size <= most {
                    bytes += size;
                    partitions.push(data);
                }
            }
        }
        partitions.extend(self.errors.into_iter().map(|(topic, partition, error)| v1::PartitionData {
            topic,
            partition,
            next_offset: Offset::NONE.get(),
            high_watermark: Offset::NONE.get(),
            last_stable_offset: Offset::NONE.get(),
            log_start_offset: Offset::NONE.get(),
            error: Some(error.to_proto()),
            ..Default::default()
        }));
        Ok((v1::FetchResponse { partitions }, whole))
    }
}

type Answer = (v1::FetchResponse, Charge);

async fn ask(
    node: &Node,
    leader: Option<BrokerId>,
    request: v1::FetchRequest,
    until: Instant,
) -> Result<Answer, Failure> {
    let Some(leader) = leader else {
        return read::fetch::fetch(node, request, Some(until)).await.map_err(|error| {
            if is_elsewhere(&error) { Failure::Refused(error) } else { Failure::Told(error) }
        });
    };
    // A first batch may be larger than what was asked for.
    let most = FORWARDED_BYTES + node.config.limits.max_inflated_bytes;
    let call = |channel, request| async move {
        ConsumerServiceClient::new(channel).max_decoding_message_size(most).fetch(request).await
    };
    let response = node.peers.poll(node, leader, until, request, call).await?;
    let charge = node.answers.charge(response.encoded_len());
    Ok((response, charge))
}

/// What is sent of one partition, in bytes.
fn size(data: &v1::PartitionData) -> usize {
    match &data.data {
        Some(Data::RecordBatches(batches)) => batches.len(),
        Some(Data::Records(set)) => set.records.iter().map(read::decode::weight).sum(),
        None => 0,
    }
}
