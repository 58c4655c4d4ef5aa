use super::*;

fn overrides(pairs: &[(&str, &str)]) -> Overrides {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn refusal(key: &str, value: &str) -> String {
    TopicConfig::resolve(&overrides(&[(key, value)])).unwrap_err().to_string()
}

#[test]
fn the_catalogue_is_sorted_and_says_what_the_typed_defaults_say() {
    assert!(CATALOGUE.windows(2).all(|pair| pair[0].name < pair[1].name), "lookups search it by halves");
    let defaults: Overrides =
        CATALOGUE.iter().map(|key| (key.name.to_owned(), key.default.to_owned())).collect();
    assert_eq!(TopicConfig::resolve(&defaults), Ok(TopicConfig::default()));
    for key in CATALOGUE {
        assert_eq!(normalize(key.name, key.default).as_deref(), Ok(key.default), "{}", key.name);
        assert!(key.doc.ends_with('.'), "{}", key.name);
        assert_eq!(ConfigKey::find(key.name).unwrap().name, key.name);
    }
    assert_eq!(CATALOGUE.len(), 24);
}

#[test]
fn every_key_reaches_a_field() {
    for (key, value) in [
        ("cleanup.policy", "compact"),
        ("compression.type", "zstd"),
        ("delete.retention.ms", "1"),
        ("file.delete.delay.ms", "1"),
        ("flush.messages", "1"),
        ("flush.ms", "1"),
        ("index.interval.bytes", "1"),
        ("max.compaction.lag.ms", "1"),
        ("max.message.bytes", "100"),
        ("message.timestamp.after.max.ms", "1"),
        ("message.timestamp.before.max.ms", "1"),
        ("message.timestamp.type", "LogAppendTime"),
        ("min.cleanable.dirty.ratio", "0.25"),
        ("min.compaction.lag.ms", "1"),
        ("min.insync.replicas", "2"),
        ("preallocate", "true"),
        ("retention.bytes", "0"),
        ("retention.ms", "-1"),
        ("segment.bytes", "1048576"),
        ("segment.index.bytes", "4096"),
        ("segment.jitter.ms", "1"),
        ("segment.ms", "1"),
        ("unclean.leader.election.enable", "true"),
        ("write.caching", "true"),
    ] {
        let config = TopicConfig::resolve(&overrides(&[(key, value)])).unwrap();
        assert_ne!(config, TopicConfig::default(), "{key}={value} changed nothing");
    }
}

#[test]
fn kafkas_markers_for_never_become_none() {
    let config = TopicConfig::resolve(&overrides(&[
        ("retention.ms", "-1"),
        ("retention.bytes", "-1"),
        ("flush.ms", "9223372036854775807"),
        ("message.timestamp.after.max.ms", "9223372036854775807"),
    ]))
    .unwrap();
    assert_eq!((config.retention_ms, config.retention_bytes, config.flush_ms), (None, None, None));
    assert_eq!(config.message_timestamp_after_max_ms, None);
}

#[test]
fn codecs_are_named_as_in_kafka() {
    for (word, codec) in [
        ("producer", None),
        ("uncompressed", Some(Compression::None)),
        ("gzip", Some(Compression::Gzip)),
        ("snappy", Some(Compression::Snappy)),
        ("lz4", Some(Compression::Lz4)),
        ("zstd", Some(Compression::Zstd)),
    ] {
        let config = TopicConfig::resolve(&overrides(&[("compression.type", word)])).unwrap();
        assert_eq!(config.compression_type.codec(), codec, "{word}");
    }
}

#[test]
fn values_at_the_bounds_are_taken_and_those_beyond_are_not() {
    for (key, good, bad) in [
        ("segment.bytes", "1048576", "1048575"),
        ("segment.bytes", "2147483647", "2147483648"),
        ("segment.ms", "1", "0"),
        ("max.message.bytes", "68", "67"),
        ("max.message.bytes", "67108864", "67108865"),
        ("retention.ms", "-1", "-2"),
        ("retention.ms", "9223372036854775807", "9223372036854775808"),
        ("min.insync.replicas", "1", "0"),
        ("flush.messages", "1", "0"),
        ("flush.ms", "0", "-1"),
        ("min.cleanable.dirty.ratio", "1", "1.01"),
        ("min.cleanable.dirty.ratio", "0", "-0.1"),
        ("min.cleanable.dirty.ratio", "0.5", "NaN"),
        ("write.caching", "TRUE", "yes"),
        ("write.caching", " false ", ""),
        ("compression.type", "lz4", "LZ4"),
        ("compression.type", "uncompressed", "none"),
        ("message.timestamp.type", "CreateTime", "createtime"),
        ("segment.ms", "+5", "5ms"),
        ("index.interval.bytes", "0", "1e3"),
        ("segment.index.bytes", "12", "11"),
    ] {
        assert!(TopicConfig::resolve(&overrides(&[(key, good)])).is_ok(), "{key}={good}");
        assert!(TopicConfig::resolve(&overrides(&[(key, bad)])).is_err(), "{key}={bad}");
    }
}

#[test]
fn a_refusal_is_a_sentence_that_says_what_to_do() {
    assert_eq!(
        refusal("segment.bytes", "12"),
        "segment.bytes must be a whole number of bytes from 1048576 to 2147483647, not \"12\""
    );
    assert_eq!(
        refusal("retention.ms", "a week"),
        "retention.ms must be a whole number of milliseconds, 0 or more, or -1 for no limit, not \"a week\""
    );
    assert_eq!(refusal("write.caching", "on"), "write.caching must be \"true\" or \"false\", not \"on\"");
    assert_eq!(
        refusal("compression.type", "brotli"),
        "compression.type must be one of producer, uncompressed, gzip, snappy, lz4, zstd, not \"brotli\""
    );
    assert_eq!(
        refusal("retention.msec", "1"),
        "there is no topic configuration \"retention.msec\"; did you mean \"retention.ms\"?"
    );
    assert_eq!(
        refusal("cleanup.policy", "shred"),
        "cleanup.policy must be a list of compact, delete, not \"shred\""
    );
}

#[test]
fn the_policy_is_a_list_of_two_words() {
    for (given, compact, delete) in [
        ("compact", true, false),
        (" compact ", true, false),
        ("delete", false, true),
        ("compact,delete", true, true),
        ("delete,compact", true, true),
        ("delete , compact", true, true),
        ("delete,delete", false, true),
    ] {
        let config = TopicConfig::resolve(&overrides(&[("cleanup.policy", given)])).unwrap();
        assert_eq!(config.cleanup_policy, CleanupPolicy { compact, delete }, "{given}");
    }
    for bad in ["", ",", "compact,", "Compact", "compact delete", "none"] {
        let error = TopicConfig::resolve(&overrides(&[("cleanup.policy", bad)])).unwrap_err();
        assert_eq!(error.code(), crate::ErrorCode::InvalidConfig, "{bad}");
    }
}

#[test]
fn compaction_lags_must_not_contradict_each_other() {
    let given = overrides(&[("min.compaction.lag.ms", "10"), ("max.compaction.lag.ms", "5")]);
    let error = TopicConfig::resolve(&given).unwrap_err();
    assert_eq!(
        error.to_string(),
        "min.compaction.lag.ms is 10 but must not be more than max.compaction.lag.ms, which is 5"
    );
    assert_eq!(error.key(), "min.compaction.lag.ms");
}

#[test]
fn a_long_value_is_refused_without_being_repeated() {
    let message = refusal("retention.ms", &"9".repeat(1 << 20));
    assert!(message.len() < 300, "{} bytes", message.len());
}

#[test]
fn normalizing_gives_one_text_form() {
    for (key, given, stored) in [
        ("write.caching", " TRUE ", "true"),
        ("retention.ms", "007", "7"),
        ("min.cleanable.dirty.ratio", "0.50", "0.5"),
        ("min.cleanable.dirty.ratio", "-0", "0"),
        ("cleanup.policy", " delete", "delete"),
        ("cleanup.policy", "delete , compact", "compact,delete"),
    ] {
        assert_eq!(normalize(key, given).as_deref(), Ok(stored), "{key}");
    }
    assert!(normalize("nope", "1").is_err());
}

#[test]
fn what_another_version_wrote_stays_readable() {
    let given = overrides(&[("segment.ms", "5"), ("retention.ms", "-7"), ("future.key", "x")]);
    let config = TopicConfig::resolve_lossy(&given);
    assert_eq!(config, TopicConfig { segment_ms: 5, ..TopicConfig::default() });
}

#[test]
fn describing_marks_what_is_overridden() {
    let entries = describe(&overrides(&[("retention.ms", "5")]));
    assert_eq!(entries.len(), CATALOGUE.len());
    let of = |name: &str| entries.iter().find(|entry| entry.name == name).unwrap();
    assert_eq!(
        (of("retention.ms").value.as_str(), of("retention.ms").is_default, of("retention.ms").unit.as_str()),
        ("5", false, "ms")
    );
    assert_eq!(of("retention.ms").default_value, "604800000");
    assert!(of("segment.bytes").is_default);
    assert_eq!(of("segment.bytes").value, "1073741824");
}
