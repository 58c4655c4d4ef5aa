//! The topics that groups may read, out of the cluster's metadata, and the patterns that match them.

use regex::bytes::{Regex, RegexBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thalweg_core::group::heartbeat::MAX_PATTERN;
use thalweg_core::group::{TopicLookup, TopicSpec};
use thalweg_core::metadata::MetadataImage;
use thalweg_core::{TopicId, TopicName};

/// Bytes that a compiled pattern, and what it caches while it matches, may take.
const MAX_COMPILED_BYTES: usize = 64 * 1024;
/// How deep a pattern's groups may be nested.
const MAX_NESTING: u32 = 50;
/// Compiled patterns that are kept. Beyond it all are forgotten, and compiled again when they are asked for.
const MAX_PATTERNS: usize = 100;

/// Topics as a shard asks for them.
pub trait ImageTopics: TopicLookup {
    /// Whether a pattern can be used.
    ///
    /// Errors: a sentence that says what is wrong with it.
    fn check_pattern(&self, pattern: &str) -> Result<(), String>;
    /// Name and racks of a topic.
    fn spec(&self, id: TopicId) -> Option<TopicSpec>;
    /// The name of a topic.
    fn name(&self, id: TopicId) -> Option<TopicName>;
    /// The image behind it.
    fn image(&self) -> &Arc<MetadataImage>;
}

/// Compiled patterns, shared by all shards and over all versions of the metadata. A clone is another handle.
#[derive(Debug, Clone, Default)]
pub struct Patterns(Arc<Mutex<BTreeMap<String, Result<Regex, String>>>>);

impl Patterns {
    /// The pattern, compiled once; it matches whole names only.
    ///
    /// Errors: a sentence that says what is wrong with it.
    pub fn compiled(&self, pattern: &str) -> Result<Regex, String> {
        // Not under the lock: other shards need it meanwhile.
        if let Some(compiled) = self.lock().get(pattern) {
            return compiled.clone();
        }
        let compiled = compile(pattern);
        let mut known = self.lock();
        if known.len() >= MAX_PATTERNS {
            known.clear();
        }
        known.insert(pattern.to_owned(), compiled.clone());
        compiled
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Result<Regex, String>>> {
        // What is behind the lock is a cache, whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn compile(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > MAX_PATTERN {
        return Err(format!("a pattern has at most {MAX_PATTERN} bytes"));
    }
    let build = |text: &str| {
        let with = |unicode| {
            let mut builder = RegexBuilder::new(text);
            builder.size_limit(MAX_COMPILED_BYTES).dfa_size_limit(MAX_COMPILED_BYTES).nest_limit(MAX_NESTING);
            builder.unicode(unicode).build()
        };
        // Names are ASCII, and classes like `\w` are far smaller so; a few patterns can be said with Unicode only.
        with(false).or_else(|_| with(true)).map_err(|error| error.to_string())
    };
    // By itself first, so that `a)|(b` cannot slip out of the group.
    build(pattern)?;
    build(&format!("^(?:{pattern})$"))
}

/// One version of the cluster's metadata, as groups see it.
#[derive(Debug)]
pub struct ClusterTopics {
    image: Arc<MetadataImage>,
    patterns: Patterns,
    matches: Mutex<BTreeMap<String, Arc<BTreeSet<TopicName>>>>,
}

impl ClusterTopics {
    /// The topics of an image. Keep it as long as the image is the newest: it remembers what patterns match.
    pub fn new(image: Arc<MetadataImage>, patterns: Patterns) -> ClusterTopics {
        ClusterTopics { image, patterns, matches: Mutex::default() }
    }
}

impl TopicLookup for ClusterTopics {
    fn topic(&self, name: &TopicName) -> Option<(TopicId, i32)> {
        let topic = self.image.topic(name.as_str())?;
        Some((topic.id, i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX)))
    }

    fn matching(&self, pattern: &str) -> Arc<BTreeSet<TopicName>> {
        let mut matches = self.matches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = matches.get(pattern) {
            return Arc::clone(found);
        }
        let found = match self.patterns.compiled(pattern) {
            Ok(regex) => {
                let users = self.image.topics().filter(|topic| !topic.internal);
                let names = users.filter(|topic| regex.is_match(topic.name.as_str().as_bytes()));
                Arc::new(names.map(|topic| topic.name.clone()).collect())
            }
            // It was refused when its member came, unless an older version took it.
            Err(_) => Arc::default(),
        };
        if matches.len() >= MAX_PATTERNS {
            matches.clear();
        }
        matches.insert(pattern.to_owned(), Arc::clone(&found));
        found
    }
}

impl ImageTopics for ClusterTopics {
    fn check_pattern(&self, pattern: &str) -> Result<(), String> {
        self.patterns.compiled(pattern).map(|_| ())
    }

    fn spec(&self, id: TopicId) -> Option<TopicSpec> {
        let topic = self.image.topic_by_id(id)?;
        let rack = |broker| self.image.broker(broker).and_then(|broker| broker.rack.as_deref());
        let racks = topic.partitions.iter().map(|partition| {
            partition.replicas.iter().filter_map(|broker| rack(*broker).map(Arc::from)).collect()
        });
        Some(TopicSpec { name: topic.name.as_str().into(), racks: racks.collect() })
    }

    fn name(&self, id: TopicId) -> Option<TopicName> {
        self.image.topic_by_id(id).map(|topic| topic.name.clone())
    }

    fn image(&self) -> &Arc<MetadataImage> {
        &self.image
    }
}
