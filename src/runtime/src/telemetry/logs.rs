//! The log, from its events to the request.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context as LayerContext;

use super::queue::Queue;
use super::wire;
use crate::SystemClock;

/// The crates by which the log is exported. What they say of an export would be exported in turn, for ever.
const OWN: [&str; 7] = ["h2", "hyper", "hyper_util", "tonic", "tower", "opentelemetry", "opentelemetry_sdk"];

/// A record, and what wrote it.
pub(super) type Line = (&'static str, LogRecord);

/// Puts the log's events into a queue.
#[derive(Debug)]
pub(super) struct LogLayer(pub(super) Arc<Queue<Line>>);

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: LayerContext<'_, S>) {
        let target = event.metadata().target();
        if OWN.contains(&target.split("::").next().unwrap_or_default()) {
            return;
        }
        self.0.push((target, record(event)));
    }
}

fn record(event: &Event<'_>) -> LogRecord {
    let mut fields = Fields::default();
    event.record(&mut fields);
    let now = u64::try_from(SystemClock.now_nanos()).unwrap_or(0);
    let (number, text) = severity(*event.metadata().level());
    let mut record = LogRecord {
        time_unix_nano: now,
        observed_time_unix_nano: now,
        severity_number: number.into(),
        severity_text: text.to_owned(),
        body: fields.message.map(wire::text),
        attributes: fields.others,
        ..LogRecord::default()
    };
    Context::map_current(|context| {
        let span = context.span();
        let span = span.span_context();
        if span.is_valid() {
            record.trace_id = span.trace_id().to_bytes().to_vec();
            record.span_id = span.span_id().to_bytes().to_vec();
            record.flags = u32::from(span.trace_flags().to_u8());
        }
    });
    record
}

fn severity(level: Level) -> (SeverityNumber, &'static str) {
    match level {
        Level::TRACE => (SeverityNumber::Trace, "TRACE"),
        Level::DEBUG => (SeverityNumber::Debug, "DEBUG"),
        Level::INFO => (SeverityNumber::Info, "INFO"),
        Level::WARN => (SeverityNumber::Warn, "WARN"),
        Level::ERROR => (SeverityNumber::Error, "ERROR"),
    }
}

/// An event's fields, the message apart.
#[derive(Default)]
struct Fields {
    message: Option<String>,
    others: Vec<KeyValue>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: any_value::Value) {
        let value = Some(AnyValue { value: Some(value) });
        self.others.push(KeyValue { key: field.name().to_owned(), value, ..KeyValue::default() });
    }

    fn text(&mut self, field: &Field, text: String) {
        if field.name() == "message" {
            self.message = Some(text);
        } else {
            self.add(field, any_value::Value::StringValue(text));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, any_value::Value::BoolValue(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, any_value::Value::DoubleValue(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, any_value::Value::IntValue(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match i64::try_from(value) {
            Ok(value) => self.add(field, any_value::Value::IntValue(value)),
            Err(_) => self.text(field, value.to_string()),
        }
    }
}

/// One request with `lines`, those of one target together.
pub(super) fn request(lines: Vec<Line>, resource: &Resource) -> ExportLogsServiceRequest {
    let mut by_target = BTreeMap::<&str, Vec<LogRecord>>::new();
    for (target, record) in lines {
        by_target.entry(target).or_default().push(record);
    }
    let scope_logs = by_target.into_iter().map(|(target, log_records)| ScopeLogs {
        scope: Some(wire::scope(target)),
        log_records,
        schema_url: String::new(),
    });
    let of_resource = ResourceLogs {
        resource: Some(resource.clone()),
        scope_logs: scope_logs.collect(),
        schema_url: String::new(),
    };
    ExportLogsServiceRequest { resource_logs: vec![of_resource] }
}
