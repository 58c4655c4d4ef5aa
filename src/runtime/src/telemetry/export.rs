//! What exports, put together from the settings: one task for each signal.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::counts::{Counts, Reason, Signal};
use super::logs::LogLayer;
use super::queue::Queue;
use super::settings::{Batching, Logs, Metrics, Settings, Target, Traces};
use super::uplink::{Collector, Payload, Uplink};
use super::{About, logs, metrics, spans, wire};
use crate::observe::Registry;
use crate::{Shutdown, SystemClock};

/// Everything that exports. Its tasks end when it is dropped; [`end`](Export::end) lets them finish first.
#[derive(Debug)]
pub(super) struct Export {
    closing: Shutdown,
    tasks: JoinSet<()>,
    tracer_provider: Option<SdkTracerProvider>,
}

/// What the tasks have in common.
struct Parts {
    resource: Resource,
    counts: Arc<Counts>,
    closing: Shutdown,
    collectors: Vec<Arc<Collector>>,
}

impl Export {
    /// Begins to export. The layer belongs into the log's subscriber; it is there if the log is exported. `registry` is what tells
    /// the metrics; it is given those of the export itself too.
    pub(super) fn begin(
        settings: &Settings,
        about: About,
        registry: Option<&Registry>,
    ) -> (Export, Option<LogLayer>) {
        let counts = Arc::new(Counts::default());
        if let Some(registry) = registry {
            registry.add_process(Arc::clone(&counts) as _);
        }
        let closing = Shutdown::new();
        let resource = wire::resource(&described(&settings.resource, about));
        let mut parts = Parts { resource, counts, closing: closing.clone(), collectors: Vec::new() };
        let mut tasks = JoinSet::new();
        let tracer_provider = settings.traces.as_ref().map(|traces| parts.traces(traces, &mut tasks));
        let lines = settings.logs.as_ref().map(|logs| parts.logs(logs, &mut tasks));
        if let Some((metrics, registry)) = settings.metrics.as_ref().zip(registry) {
            parts.metrics(metrics, registry.clone(), &mut tasks);
        }
        (Export { closing, tasks, tracer_provider }, lines)
    }

    /// What makes spans, if they are exported.
    pub(super) fn tracer_provider(&self) -> Option<&SdkTracerProvider> {
        self.tracer_provider.as_ref()
    }

    /// Exports what is left, for so long at most.
    pub(super) async fn end(mut self, deadline: Duration) {
        self.closing.trigger();
        let finished = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(deadline, finished).await.is_err() {
            tracing::warn!(?deadline, "telemetry was left over at the end");
        }
    }
}

/// What the variables say, and what they need not say.
fn described(given: &[(String, String)], about: About) -> Vec<(String, String)> {
    let mut described = given.to_vec();
    let own = [
        ("service.version", about.version),
        ("service.instance.id", crate::process::process_id()),
        ("telemetry.sdk.language", "rust"),
        ("telemetry.sdk.name", "opentelemetry"),
    ];
    for (key, value) in own {
        if described.iter().all(|(known, _)| known != key) {
            described.push((key.to_owned(), value.to_owned()));
        }
    }
    described
}

impl Parts {
    /// Signals that go to the same place share a connection, and a complaint when it is not there.
    fn uplink(&mut self, signal: Signal, target: &Target) -> Uplink {
        let known = self.collectors.iter().find(|known| *known.endpoint() == target.endpoint).cloned();
        let collector = known.unwrap_or_else(|| {
            let new = Collector::new(&target.endpoint);
            self.collectors.push(Arc::clone(&new));
            new
        });
        Uplink::new(collector, signal, target, Arc::clone(&self.counts), self.closing.clone())
    }

    fn traces(&mut self, settings: &Traces, tasks: &mut JoinSet<()>) -> SdkTracerProvider {
        let uplink = self.uplink(Signal::Traces, &settings.target);
        let queue = self.queue(Signal::Traces, settings.batching, uplink, spans::request, tasks);
        spans::provider(settings.sampling, queue)
    }

    fn logs(&mut self, settings: &Logs, tasks: &mut JoinSet<()>) -> LogLayer {
        let uplink = self.uplink(Signal::Logs, &settings.target);
        LogLayer(self.queue(Signal::Logs, settings.batching, uplink, logs::request, tasks))
    }

    /// A queue, and the task that empties it.
    fn queue<T: Send + 'static, P: Payload>(
        &self,
        signal: Signal,
        batching: Batching,
        uplink: Uplink,
        request: fn(Vec<T>, &Resource) -> P,
        tasks: &mut JoinSet<()>,
    ) -> Arc<Queue<T>> {
        let queue = Queue::new(signal, batching, Arc::clone(&self.counts));
        let (resource, closing) = (self.resource.clone(), self.closing.clone());
        let waiting = Arc::clone(&queue);
        tasks.spawn(async move {
            while let Some(batch) = waiting.next(&closing).await {
                let items = batch.len() as u64;
                uplink.export(request(batch, &resource), items, batching.timeout).await;
            }
        });
        queue
    }

    fn metrics(&mut self, settings: &Metrics, registry: Registry, tasks: &mut JoinSet<()>) {
        let uplink = self.uplink(Signal::Metrics, &settings.target);
        let (resource, closing, counts) =
            (self.resource.clone(), self.closing.clone(), Arc::clone(&self.counts));
        let (interval, patience) = (settings.interval, settings.timeout);
        let start = nanos();
        tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = sleep(interval) => {}
                    () = closing.triggered() => {}
                }
                let last = closing.is_triggered();
                let until = Instant::now() + patience;
                let window = metrics::Window { start, now: nanos() };
                for (request, series) in metrics::requests(registry.gather(), window, &resource) {
                    let items = series as u64;
                    if Instant::now() >= until {
                        counts.dropped(Signal::Metrics, Reason::Undelivered, items);
                        continue;
                    }
                    // Not tried again: the next ones say more.
                    uplink.export(request, items, Duration::ZERO).await;
                }
                if last {
                    return;
                }
            }
        });
    }
}

fn nanos() -> u64 {
    u64::try_from(SystemClock.now_nanos()).unwrap_or(0)
}
