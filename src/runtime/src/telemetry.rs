//! What a process tells of itself: its log, and what it exports over OTLP.
//!
//! ```text
//!   events ──► filter ─┬─► lines on stderr
//!                      └─► LogLayer ──► Queue ─┐
//!   spans, of RPCs and below ─────────► Queue ─┼─► Uplink ──► Collector (gRPC)
//!   Registry::gather, by the clock ────────────┘
//! ```
//! Nothing is exported unless the standard `OTEL_*` variables ask for it; then nothing of it is there: no task, no tracer, no layer.
//! What is exported never holds up what it tells of: queues are bounded, and what does not fit is counted and dropped.

mod counts;
mod export;
mod log;
mod logs;
mod metrics;
mod queue;
mod reach;
#[cfg(any(test, feature = "otlp-receiver"))]
pub mod receiver;
pub mod settings;
mod spans;
mod uplink;
mod variables;
mod wire;

use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::global;
use opentelemetry::propagation::{TextMapCompositePropagator, TextMapPropagator};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use opentelemetry_sdk::trace::SdkTracer;

use crate::observe::Registry;
pub use counts::FAMILIES;
use export::Export;
pub use log::{DEFAULT_LOG_FILTER, LogError, LogFormat, LogHandle, init_logging};
use settings::{Propagator, Settings, Warning};

/// How long the end of a process waits for what is still to be exported.
pub const FLUSH_DEADLINE: Duration = Duration::from_secs(3);

/// What a command that is no server logs: that its telemetry does not work, and nothing else.
const COMMAND_LOG_FILTER: &str = "off,thalweg_runtime::telemetry=warn";

/// The tracer of the RPC servers. Not there if no spans are exported.
static SERVER_TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// A process, as its telemetry names it.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// `service.name`, unless the variables say another: `thalweg-broker`.
    pub service: &'static str,
    /// The program's version.
    pub version: &'static str,
}

/// The telemetry of a process. [`end`](Telemetry::end) it, or what is not exported yet is lost.
#[derive(Debug)]
pub struct Telemetry {
    export: Option<Export>,
}

impl Telemetry {
    /// Sets up a server's log and whatever the environment asks to export, once in a process. Call it inside of a tokio runtime.
    /// The log is what [`init_logging`] makes of `format` and `filter`.
    pub fn of_server(
        about: About,
        format: LogFormat,
        filter: &str,
        registry: &Registry,
    ) -> Result<(Telemetry, LogHandle), LogError> {
        let (settings, warnings) = Settings::read(about.service, &environment);
        let (export, lines) = begin(&settings, about, Some(registry));
        let log = log::install(format, filter, lines)?;
        install(&settings, export.as_ref());
        tell(&settings, &warnings);
        Ok((Telemetry { export }, log))
    }

    /// Sets up what the environment asks to export of a command that comes to an end by itself: its spans. It has no log; only of
    /// telemetry that does not work it complains, on stderr.
    pub fn of_command(about: About) -> Telemetry {
        let (mut settings, warnings) = Settings::read(about.service, &environment);
        (settings.metrics, settings.logs) = (None, None);
        let (export, _) = begin(&settings, about, None);
        if export.is_some() || !warnings.is_empty() {
            // A log that is there already is as good.
            _ = init_logging(LogFormat::Text, COMMAND_LOG_FILTER);
            install(&settings, export.as_ref());
            tell(&settings, &warnings);
        }
        Telemetry { export }
    }

    /// Exports what is left, within [`FLUSH_DEADLINE`].
    pub async fn end(self) {
        if let Some(export) = self.export {
            export.end(FLUSH_DEADLINE).await;
        }
    }
}

/// The tracer of the RPC servers, if spans are exported.
pub(crate) fn server_tracer() -> Option<SdkTracer> {
    SERVER_TRACER.get().cloned()
}

fn environment(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn begin(
    settings: &Settings,
    about: About,
    registry: Option<&Registry>,
) -> (Option<Export>, Option<logs::LogLayer>) {
    if !settings.exports() {
        return (None, None);
    }
    let (export, lines) = Export::begin(settings, about, registry);
    (Some(export), lines)
}

/// Makes the tracer the process's own, so that every part of it that knows the OpenTelemetry API makes spans with it.
fn install(settings: &Settings, export: Option<&Export>) {
    let Some(provider) = export.and_then(Export::tracer_provider) else { return };
    _ = SERVER_TRACER.set(provider.tracer("thalweg-runtime"));
    global::set_tracer_provider(provider.clone());
    global::set_text_map_propagator(propagator(&settings.propagators));
}

fn propagator(propagators: &[Propagator]) -> TextMapCompositePropagator {
    let each = propagators.iter().map(|propagator| -> Box<dyn TextMapPropagator + Send + Sync> {
        match propagator {
            Propagator::TraceContext => Box::new(TraceContextPropagator::new()),
            Propagator::Baggage => Box::new(BaggagePropagator::new()),
        }
    });
    TextMapCompositePropagator::new(each.collect())
}

fn tell(settings: &Settings, warnings: &[Warning]) {
    for Warning { variable, value, expected, used } in warnings {
        tracing::warn!(variable, value, expected, used, "an OpenTelemetry variable cannot be used");
    }
    let endpoint = |target: Option<&settings::Target>| target.map(|target| target.endpoint.to_string());
    if settings.exports() {
        tracing::info!(
            traces = endpoint(settings.traces.as_ref().map(|traces| &traces.target)),
            metrics = endpoint(settings.metrics.as_ref().map(|metrics| &metrics.target)),
            logs = endpoint(settings.logs.as_ref().map(|logs| &logs.target)),
            "exporting telemetry"
        );
    }
}

#[cfg(test)]
mod tests;
