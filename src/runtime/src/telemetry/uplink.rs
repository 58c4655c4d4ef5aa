//! The way of one signal to its collector.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Uri;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::counts::{Counts, Reason, Signal};
use super::reach::Reach;
use super::settings::Target;
use crate::Shutdown;

/// The pause before the second try; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A collector, shared by the signals that go to it.
#[derive(Debug)]
pub(super) struct Collector {
    endpoint: Uri,
    channel: Channel,
    reach: Mutex<Reach>,
}

/// What can be exported.
pub(super) trait Payload: Clone + Send + Sync + 'static {
    /// Sends it, and gives how much of it the collector rejected, with its reason.
    fn send(
        channel: Channel,
        request: Request<Self>,
    ) -> impl Future<Output = Result<(i64, String), Status>> + Send;
}

/// Exports one signal.
#[derive(Debug)]
pub(super) struct Uplink {
    collector: Arc<Collector>,
    signal: Signal,
    headers: MetadataMap,
    timeout: Duration,
    counts: Arc<Counts>,
    /// Triggered when the process is about to end: then nothing is tried again.
    closing: Shutdown,
}

impl Collector {
    /// Connects when it is first used. Call it inside of a tokio runtime.
    pub(super) fn new(endpoint: &Uri) -> Arc<Collector> {
        let channel = Endpoint::from(endpoint.clone()).connect_timeout(CONNECT_TIMEOUT).connect_lazy();
        Arc::new(Collector { endpoint: endpoint.clone(), channel, reach: Mutex::default() })
    }

    pub(super) fn endpoint(&self) -> &Uri {
        &self.endpoint
    }

    fn reach(&self) -> std::sync::MutexGuard<'_, Reach> {
        // Whole at every step.
        self.reach.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Uplink {
    pub(super) fn new(
        collector: Arc<Collector>,
        signal: Signal,
        target: &Target,
        counts: Arc<Counts>,
        closing: Shutdown,
    ) -> Uplink {
        let (headers, timeout) = (target.headers.clone(), target.timeout);
        Uplink { collector, signal, headers, timeout, counts, closing }
    }

    /// Sends `payload` with its `items`, again and again while it is worth it and `patience` lasts, and counts what became of them.
    pub(super) async fn export<P: Payload>(&self, payload: P, items: u64, patience: Duration) {
        let until = Instant::now() + patience;
        let mut pause = FIRST_PAUSE;
        loop {
            let last = self.closing.is_triggered();
            match self.attempt(payload.clone()).await {
                Ok((rejected, reason)) => return self.delivered(items, rejected, &reason),
                Err(status) => {
                    self.failed(&status);
                    if !transient(&status) {
                        return self.counts.dropped(self.signal, Reason::Rejected, items);
                    }
                    if last || Instant::now() + pause >= until {
                        return self.counts.dropped(self.signal, Reason::Undelivered, items);
                    }
                }
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = self.closing.triggered() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn attempt<P: Payload>(&self, payload: P) -> Result<(i64, String), Status> {
        let mut request = Request::new(payload);
        *request.metadata_mut() = self.headers.clone();
        let sent = P::send(self.collector.channel.clone(), request);
        timeout(self.timeout, sent)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer within the timeout")))
    }

    fn delivered(&self, items: u64, rejected: i64, reason: &str) {
        let rejected = u64::try_from(rejected).unwrap_or(0).min(items);
        self.counts.exported(self.signal, items - rejected);
        self.counts.dropped(self.signal, Reason::Rejected, rejected);
        if rejected > 0 {
            tracing::debug!(signal = ?self.signal, rejected, reason, "the telemetry collector rejected a part");
        }
        let tell = self.collector.reach().succeeded(self.signal);
        if tell {
            let dropped = self.counts.all_dropped();
            tracing::info!(endpoint = %self.collector.endpoint, dropped, "telemetry is delivered again");
        }
    }

    fn failed(&self, status: &Status) {
        let tell = self.collector.reach().failed(self.signal, Instant::now());
        if tell {
            tracing::warn!(
                endpoint = %self.collector.endpoint,
                signal = ?self.signal,
                code = ?status.code(),
                error = causes(status),
                "telemetry cannot be delivered; what the queues do not hold is dropped until it can, and the service goes on",
            );
        }
    }
}

/// Whether another try may help, as OTLP has it. What the transport says of itself has a source.
fn transient(status: &Status) -> bool {
    use Code::{Aborted, Cancelled, DataLoss, DeadlineExceeded, OutOfRange, Unavailable};
    matches!(status.code(), Aborted | Cancelled | DataLoss | DeadlineExceeded | OutOfRange | Unavailable)
        || std::error::Error::source(status).is_some()
}

/// The status's message and what caused it.
fn causes(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

// === impl Payload ===

impl Payload for ExportTraceServiceRequest {
    async fn send(channel: Channel, request: Request<Self>) -> Result<(i64, String), Status> {
        let answer = TraceServiceClient::new(channel).export(request).await?.into_inner();
        let partial = answer.partial_success.unwrap_or_default();
        Ok((partial.rejected_spans, partial.error_message))
    }
}

impl Payload for ExportMetricsServiceRequest {
    async fn send(channel: Channel, request: Request<Self>) -> Result<(i64, String), Status> {
        let answer = MetricsServiceClient::new(channel).export(request).await?.into_inner();
        let partial = answer.partial_success.unwrap_or_default();
        Ok((partial.rejected_data_points, partial.error_message))
    }
}

impl Payload for ExportLogsServiceRequest {
    async fn send(channel: Channel, request: Request<Self>) -> Result<(i64, String), Status> {
        let answer = LogsServiceClient::new(channel).export(request).await?.into_inner();
        let partial = answer.partial_success.unwrap_or_default();
        Ok((partial.rejected_log_records, partial.error_message))
    }
}
