//! Metrics, from the registry to requests: what `/metrics` shows, under the same names and with the same labels.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::wire;
use crate::observe::{Family, Gathered, Kind, LATENCY_BUCKETS, Point, Value};

/// Series of one request at most: with it a request stays far below the 4 MiB that gRPC servers take by default. A histogram of
/// [`LATENCY_BUCKETS`] takes some 500 bytes.
const MAX_POINTS: usize = 4_000;

/// The time that a snapshot covers, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Since when counters count.
    pub(super) start: u64,
    /// When it was taken.
    pub(super) now: u64,
}

/// The requests that tell `gathered`, each with the number of its series.
pub(super) fn requests(
    gathered: Gathered,
    window: Window,
    resource: &Resource,
) -> Vec<(ExportMetricsServiceRequest, usize)> {
    let mut requests = Vec::new();
    let (mut metrics, mut count) = (Vec::new(), 0);
    let mut finish = |metrics: &mut Vec<Metric>, count: &mut usize| {
        if *count > 0 {
            requests.push((request(std::mem::take(metrics), resource), std::mem::take(count)));
        }
    };
    for (family, points) in gathered.into_values() {
        let mut points = points.into_iter().peekable();
        while points.peek().is_some() {
            let some: Vec<Point> = points.by_ref().take(MAX_POINTS - count).collect();
            count += some.len();
            metrics.push(metric(family, some, window));
            if count == MAX_POINTS {
                finish(&mut metrics, &mut count);
            }
        }
    }
    finish(&mut metrics, &mut count);
    requests
}

fn request(metrics: Vec<Metric>, resource: &Resource) -> ExportMetricsServiceRequest {
    let of_scope = ScopeMetrics { scope: Some(wire::scope("thalweg")), metrics, schema_url: String::new() };
    let of_resource = ResourceMetrics {
        resource: Some(resource.clone()),
        scope_metrics: vec![of_scope],
        schema_url: String::new(),
    };
    ExportMetricsServiceRequest { resource_metrics: vec![of_resource] }
}

fn metric(family: &Family, points: Vec<Point>, window: Window) -> Metric {
    let cumulative = AggregationTemporality::Cumulative.into();
    let numbers = |points: Vec<Point>| points.into_iter().filter_map(|at| number(at, window)).collect();
    let data = match family.kind {
        Kind::Gauge => metric::Data::Gauge(Gauge { data_points: numbers(points) }),
        Kind::Counter => metric::Data::Sum(Sum {
            data_points: numbers(points),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        Kind::Histogram => metric::Data::Histogram(Histogram {
            data_points: points.into_iter().filter_map(|at| histogram(at, window)).collect(),
            aggregation_temporality: cumulative,
        }),
    };
    Metric {
        name: family.name.to_owned(),
        description: family.help.to_owned(),
        unit: unit(family.name).to_owned(),
        metadata: Vec::new(),
        data: Some(data),
    }
}

/// The unit that the end of a name tells, in UCUM.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit_once('_') {
        Some((_, "seconds")) => "s",
        Some((_, "bytes")) => "By",
        Some((_, "ratio")) => "1",
        _ => "",
    }
}

fn attributes(labels: Vec<(&'static str, String)>) -> Vec<KeyValue> {
    labels.into_iter().map(|(name, value)| wire::attribute(name, value)).collect()
}

fn number(point: Point, window: Window) -> Option<NumberDataPoint> {
    let Value::Number(value) = point.value else { return None };
    Some(NumberDataPoint {
        attributes: attributes(point.labels),
        start_time_unix_nano: window.start,
        time_unix_nano: window.now,
        value: Some(number_data_point::Value::AsDouble(value)),
        ..NumberDataPoint::default()
    })
}

fn histogram(point: Point, window: Window) -> Option<HistogramDataPoint> {
    let Value::Histogram(snapshot) = point.value else { return None };
    Some(HistogramDataPoint {
        attributes: attributes(point.labels),
        start_time_unix_nano: window.start,
        time_unix_nano: window.now,
        count: snapshot.count(),
        sum: Some(snapshot.sum),
        bucket_counts: snapshot.counts,
        explicit_bounds: LATENCY_BUCKETS.to_vec(),
        ..HistogramDataPoint::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{Registry, Samples, Source};
    use std::sync::Arc;
    use std::time::Duration;

    static BYTES: Family = Family::counter("thalweg_bytes_total", "Bytes.", &["number"]);
    static WAIT: Family = Family::histogram("thalweg_wait_seconds", "How long.", &[]);
    static SIZE: Family = Family::gauge("thalweg_size", "How many.", &[]);

    struct Things(usize);

    impl Source for Things {
        fn collect(&self, samples: &mut Samples<'_>) {
            (0..self.0).for_each(|number| samples.count(&BYTES, &[&number.to_string()], number as u64));
            let wait = crate::observe::Histogram::default();
            wait.record(Duration::from_micros(200));
            wait.record(Duration::from_secs(60));
            samples.histogram(&WAIT, &[], wait.snapshot());
            samples.number(&SIZE, &[], -1.5);
        }
    }

    fn told(things: usize) -> Vec<(Vec<Metric>, usize)> {
        let registry = Registry::new();
        registry.add("broker", 3, Arc::new(Things(things)));
        let window = Window { start: 1, now: 2 };
        let requests = requests(registry.gather(), window, &wire::resource(&[]));
        let metrics = |request: ExportMetricsServiceRequest| {
            request.resource_metrics.into_iter().flat_map(|of| of.scope_metrics).flat_map(|of| of.metrics)
        };
        requests.into_iter().map(|(request, count)| (metrics(request).collect(), count)).collect()
    }

    #[test]
    fn a_snapshot_is_told_with_its_kind_unit_and_labels() {
        let told = told(1);
        let [(metrics, 3)] = told.as_slice() else { panic!("{told:?}") };
        let shown: Vec<_> = metrics
            .iter()
            .map(|metric| (metric.name.as_str(), metric.unit.as_str(), metric.description.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                ("thalweg_bytes_total", "By", "Bytes."),
                ("thalweg_size", "", "How many."),
                ("thalweg_wait_seconds", "s", "How long."),
            ]
        );
        let Some(metric::Data::Sum(sum)) = &metrics[0].data else { panic!("{metrics:?}") };
        assert!(sum.is_monotonic && sum.aggregation_temporality() == AggregationTemporality::Cumulative);
        let point = &sum.data_points[0];
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1, 2));
        let labels: Vec<_> = point.attributes.iter().map(|label| label.key.as_str()).collect();
        assert_eq!(labels, ["service", "node", "number"]);
        let Some(metric::Data::Histogram(histogram)) = &metrics[2].data else { panic!("{metrics:?}") };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.bucket_counts.len(), point.explicit_bounds.len()), (2, 17, 16));
        assert_eq!((point.bucket_counts[1], point.bucket_counts[16]), (1, 1));
    }

    #[test]
    fn what_is_too_much_for_one_request_goes_into_several() {
        let told = told(MAX_POINTS * 2 + 5);
        let counts: Vec<_> = told.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [MAX_POINTS, MAX_POINTS, 7]);
        assert_eq!(told[2].0.len(), 3);
    }
}
