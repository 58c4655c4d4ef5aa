//! The broker's copy of the cluster's metadata.

use crate::settings::TopicSettings;
pub use thalweg_client::controllers::MetadataStore;

/// What a topic's batches are checked against; `None` if there is no such topic.
pub fn topic_settings(metadata: &MetadataStore, topic: &str) -> Option<TopicSettings> {
    metadata.image().topic(topic).map(|topic| TopicSettings::from(&*topic.config))
}
