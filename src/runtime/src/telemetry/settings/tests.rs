use super::*;

fn read(variables: &[(&str, &str)]) -> (Settings, Vec<Warning>) {
    Settings::read("thalweg-test", &|name| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    })
}

/// Reads what must be right.
fn right(variables: &[(&str, &str)]) -> Settings {
    let (settings, warnings) = read(variables);
    assert_eq!(warnings, []);
    settings
}

const AT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");

#[test]
fn nothing_is_exported_unless_it_is_asked_for() {
    for variables in [
        &[][..],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")],
        &[("OTEL_SERVICE_NAME", "a"), ("OTEL_TRACES_SAMPLER", "nonsense")],
        &[AT, ("OTEL_SDK_DISABLED", "True")],
        &[
            AT,
            ("OTEL_TRACES_EXPORTER", "none"),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_LOGS_EXPORTER", "NONE"),
        ],
    ] {
        assert!(!right(variables).exports(), "{variables:?}");
    }
}

#[test]
fn an_endpoint_switches_its_signals_on_with_the_standard_defaults() {
    let all = right(&[AT]);
    let (traces, metrics, logs) = (all.traces.unwrap(), all.metrics.unwrap(), all.logs.unwrap());
    assert_eq!(traces.target.endpoint, "http://collector:4317");
    assert_eq!((traces.target.timeout, traces.target.headers.len()), (Duration::from_secs(10), 0));
    let batching = Batching {
        delay: Duration::from_secs(5),
        timeout: Duration::from_secs(30),
        queue: 2_048,
        batch: 512,
    };
    assert_eq!(traces.batching, batching);
    assert_eq!(logs.batching, Batching { delay: Duration::from_secs(1), ..batching });
    assert_eq!((metrics.interval, metrics.timeout), (Duration::from_secs(60), Duration::from_secs(30)));
    assert_eq!(traces.sampling, Sampling { parent_based: true, share: 1.0 });
    assert_eq!(all.resource, [("service.name".to_owned(), "thalweg-test".to_owned())]);
    assert_eq!(all.propagators, [Propagator::TraceContext, Propagator::Baggage]);

    let one = right(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4317")]);
    assert_eq!(one.traces.unwrap().target.endpoint, "http://collector:4317");
    assert!(one.metrics.is_none() && one.logs.is_none());
    let here = right(&[("OTEL_LOGS_EXPORTER", "otlp")]);
    assert_eq!(here.logs.unwrap().target.endpoint, "http://localhost:4317");
    assert!(here.traces.is_none());
}

#[test]
fn what_is_said_of_one_signal_wins() {
    let settings = right(&[
        AT,
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://other:1"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20a,x-b=c"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "x-d=e"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "1"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
        ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "7"),
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,zone=b%2Cc"),
        ("OTEL_SERVICE_NAME", "mine"),
        ("OTEL_PROPAGATORS", "none"),
    ]);
    let (traces, metrics, logs) =
        (settings.traces.unwrap(), settings.metrics.unwrap(), settings.logs.unwrap());
    assert_eq!(metrics.target.endpoint, "http://other:1");
    assert_eq!(metrics.target.headers.get("authorization").unwrap(), "Bearer a");
    assert_eq!((logs.target.headers.len(), logs.target.headers.get("x-d").is_some()), (1, true));
    assert_eq!(
        (traces.target.timeout, logs.target.timeout),
        (Duration::from_millis(1), Duration::from_secs(2))
    );
    assert_eq!((traces.batching.queue, traces.batching.batch), (100, 100));
    assert_eq!(logs.batching.batch, 7);
    assert_eq!(traces.sampling, Sampling { parent_based: false, share: 0.25 });
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(settings.resource, [pair("zone", "b,c"), pair("service.name", "mine")]);
    assert_eq!(settings.propagators, []);
}

#[test]
fn every_sampler_has_its_meaning() {
    for (word, parent_based, share) in [
        ("always_on", false, 1.0),
        ("always_off", false, 0.0),
        ("traceidratio", false, 0.5),
        ("parentbased_always_on", true, 1.0),
        ("parentbased_always_off", true, 0.0),
        ("parentbased_traceidratio", true, 0.5),
    ] {
        let settings = right(&[AT, ("OTEL_TRACES_SAMPLER", word), ("OTEL_TRACES_SAMPLER_ARG", "0.5")]);
        assert_eq!(settings.traces.unwrap().sampling, Sampling { parent_based, share }, "{word}");
    }
}

#[test]
fn a_wrong_value_is_told_once_and_harms_nothing() {
    for (variable, value) in [
        ("OTEL_SDK_DISABLED", "yes"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
        ("OTEL_LOGS_EXPORTER", "console"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "-1"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_BSP_SCHEDULE_DELAY", "1e3"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "99999999999999999999"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "1000000000000"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2049"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "soon"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1.5"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "x"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c"),
        ("OTEL_PROPAGATORS", "tracecontext,b3"),
    ] {
        let (settings, warnings) = read(&[AT, (variable, value)]);
        assert_eq!(warnings.len(), 1, "{variable}={value}: {warnings:?}");
        let said = warnings[0].to_string();
        assert!(said.contains(variable) && said.contains(value) && said.contains("instead"), "{said}");
        assert!(settings.traces.is_some() && settings.metrics.is_some() && settings.logs.is_some(), "{said}");
    }
    let (settings, warnings) =
        read(&[AT, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")]);
    assert_eq!((warnings.len(), settings.traces.unwrap().sampling.share), (1, 1.0));
}

#[test]
fn an_endpoint_that_is_none_exports_nothing_and_is_told_once() {
    for value in ["collector", "http://", "https://collector:4317", "ftp://a:1", "http://a b", "://", "::::"]
    {
        let (settings, warnings) = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", value)]);
        if value == "collector" {
            // A host alone is a port of its own choosing, not a mistake.
            assert!(settings.exports() && warnings.is_empty());
            continue;
        }
        assert!(!settings.exports(), "{value}");
        assert_eq!(warnings.len(), 1, "{value}: {warnings:?}");
        assert!(warnings[0].to_string().contains("nothing is exported"), "{}", warnings[0]);
    }
}

#[test]
fn a_password_in_an_endpoint_is_refused_and_not_shown() {
    for value in
        ["http://me:secret@collector:4317", "https://me:secret@collector:4317", "me:secret@collector:4317"]
    {
        let (settings, warnings) = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", value)]);
        assert!(!settings.exports(), "{value}");
        assert_eq!(warnings.len(), 1, "{value}: {warnings:?}");
        assert!(!warnings[0].to_string().contains("secret"), "{}", warnings[0]);
    }
}

#[test]
fn headers_are_not_shown_when_they_are_wrong() {
    for value in ["x-token=se%cret,", "secret", "x-token=secret,b d=secret", "x-bin=secret"] {
        let (settings, warnings) = read(&[AT, ("OTEL_EXPORTER_OTLP_HEADERS", value)]);
        assert_eq!(warnings.len(), 1, "{value}: {warnings:?}");
        assert!(!warnings[0].to_string().contains("cret"), "{}", warnings[0]);
        assert!(settings.exports());
    }
}
