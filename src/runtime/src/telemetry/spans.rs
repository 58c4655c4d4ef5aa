//! Spans, from the tracer to the request.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_proto::tonic::Attributes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanProcessor};

use super::queue::Queue;
use super::settings::Sampling;

/// Puts the spans that end into the queue.
#[derive(Debug)]
struct Ended(Arc<Queue<SpanData>>);

impl SpanProcessor for Ended {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.0.push(span);
        }
    }

    // The queue is drained by its own task, which the end of the process waits for.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// What makes the spans that go into `queue`.
pub(super) fn provider(sampling: Sampling, queue: Arc<Queue<SpanData>>) -> SdkTracerProvider {
    SdkTracerProvider::builder()
        .with_sampler(sampler(sampling))
        // The resource is added to each request, and not asked of the provider.
        .with_resource(opentelemetry_sdk::Resource::builder_empty().build())
        .with_span_processor(Ended(queue))
        .build()
}

fn sampler(Sampling { parent_based, share }: Sampling) -> Sampler {
    let root = if share >= 1.0 {
        Sampler::AlwaysOn
    } else if share <= 0.0 {
        Sampler::AlwaysOff
    } else {
        Sampler::TraceIdRatioBased(share)
    };
    if parent_based { Sampler::ParentBased(Box::new(root)) } else { root }
}

/// One request with `spans`.
pub(super) fn request(spans: Vec<SpanData>, resource: &Resource) -> ExportTraceServiceRequest {
    let resource = ResourceAttributesWithSchema {
        attributes: Attributes(resource.attributes.clone()),
        schema_url: None,
    };
    ExportTraceServiceRequest { resource_spans: group_spans_by_resource_and_scope(spans, &resource) }
}
