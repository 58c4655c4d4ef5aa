//! Metrics as text: Prometheus' exposition format, version 0.0.4.

use super::histogram::LATENCY_BUCKETS;
use super::registry::{Gathered, Point, Value};
use std::fmt::Write;

/// The media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything that was gathered, in the order of the names.
pub fn render(gathered: &Gathered) -> String {
    let mut out = String::new();
    for (family, points) in gathered.values() {
        let name = family.name;
        write(&mut out, format_args!("# HELP {name} {}\n", escaped(family.help, false)));
        write(&mut out, format_args!("# TYPE {name} {}\n", family.kind.name()));
        for point in points {
            self::point(&mut out, name, point);
        }
    }
    out
}

fn point(out: &mut String, name: &str, point: &Point) {
    match &point.value {
        Value::Number(value) => {
            series(out, name, "", point, None);
            write(out, format_args!(" {value}\n"));
        }
        Value::Histogram(histogram) => {
            let mut below = 0;
            for (index, count) in histogram.counts.iter().enumerate() {
                below += count;
                let bound = LATENCY_BUCKETS.get(index).map_or("+Inf".to_owned(), f64::to_string);
                series(out, name, "_bucket", point, Some(&bound));
                write(out, format_args!(" {below}\n"));
            }
            series(out, name, "_sum", point, None);
            write(out, format_args!(" {}\n", histogram.sum));
            series(out, name, "_count", point, None);
            write(out, format_args!(" {below}\n"));
        }
    }
}

fn series(out: &mut String, name: &str, suffix: &str, point: &Point, bound: Option<&str>) {
    write(out, format_args!("{name}{suffix}"));
    let labels = point.labels.iter().map(|(name, value)| (*name, value.as_str()));
    let labels = labels.chain(bound.map(|bound| ("le", bound)));
    for (index, (name, value)) in labels.enumerate() {
        let before = if index == 0 { '{' } else { ',' };
        write(out, format_args!("{before}{name}=\"{}\"", escaped(value, true)));
    }
    if bound.is_some() || !point.labels.is_empty() {
        out.push('}');
    }
}

fn escaped(text: &str, in_quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if in_quotes { text.replace('"', "\\\"") } else { text }
}

fn write(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{Family, Histogram, Registry, Samples, Source};
    use std::sync::Arc;
    use std::time::Duration;

    static CALLS: Family = Family::counter("thalweg_calls_total", "Calls\\, by \"name\".", &["name"]);
    static SECONDS: Family = Family::histogram("thalweg_call_seconds", "How long.", &[]);

    struct One;

    impl Source for One {
        fn collect(&self, samples: &mut Samples<'_>) {
            samples.count(&CALLS, &["a\"b\\c\nd"], 3);
            let histogram = Histogram::default();
            histogram.record(Duration::from_micros(50));
            histogram.record(Duration::from_secs(60));
            samples.histogram(&SECONDS, &[], histogram.snapshot());
        }
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let registry = Registry::new();
        registry.add("broker", 1, Arc::new(One));
        let text = render(&registry.gather());
        let wanted = [
            "# HELP thalweg_call_seconds How long.\n# TYPE thalweg_call_seconds histogram\n",
            "thalweg_call_seconds_bucket{service=\"broker\",node=\"1\",le=\"0.0001\"} 1\n",
            "thalweg_call_seconds_bucket{service=\"broker\",node=\"1\",le=\"10\"} 1\n",
            "thalweg_call_seconds_bucket{service=\"broker\",node=\"1\",le=\"+Inf\"} 2\n",
            "thalweg_call_seconds_sum{service=\"broker\",node=\"1\"} 60.00005\n",
            "thalweg_call_seconds_count{service=\"broker\",node=\"1\"} 2\n",
            "# HELP thalweg_calls_total Calls\\\\, by \"name\".\n# TYPE thalweg_calls_total counter\n",
            "thalweg_calls_total{service=\"broker\",node=\"1\",name=\"a\\\"b\\\\c\\nd\"} 3\n",
        ];
        for line in wanted {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
