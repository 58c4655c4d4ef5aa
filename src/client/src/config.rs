//! How a client finds and talks to a cluster.

use std::time::Duration;

/// Settings of a [`Client`](crate::Client). Kafka's names stand behind each field.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientConfig {
    /// Brokers to begin with, each `host:port`; the others are learnt from them (`bootstrap.servers`).
    pub bootstrap: Vec<String>,
    /// Names this program in the brokers' logs (`client.id`). Default `thalweg-client`.
    pub client_id: String,
    /// How long the first connection to a cluster may take, and a TCP connection to one broker, that one 3 s at most
    /// (`socket.connection.setup.timeout.ms`). Default 5 s.
    pub connect_timeout: Duration,
    /// How long one call may take, retries included (`request.timeout.ms`). Default 30 s.
    pub request_timeout: Duration,
    /// Metadata older than this is fetched again (`metadata.max.age.ms`). Default 300 s.
    pub metadata_max_age: Duration,
    /// The first pause before a retry; it doubles with each (`retry.backoff.ms`). Default 100 ms.
    pub retry_backoff: Duration,
    /// The longest pause before a retry (`retry.backoff.max.ms`). Default 1 s.
    pub retry_backoff_max: Duration,
}

impl ClientConfig {
    /// The defaults, for brokers given as `host:port`.
    pub fn new(bootstrap: impl IntoIterator<Item = impl Into<String>>) -> ClientConfig {
        ClientConfig {
            bootstrap: bootstrap.into_iter().map(Into::into).collect(),
            client_id: "thalweg-client".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            metadata_max_age: Duration::from_secs(300),
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
        }
    }
}

/// Where to begin reading a partition, or which offset is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the first offset that is still there.
    Earliest,
    /// At the high watermark: only what comes from now on.
    Latest,
    /// At this offset.
    Offset(thalweg_core::Offset),
    /// At the first record whose timestamp is not below this; at the end if there is none.
    Timestamp(thalweg_core::Timestamp),
}

/// Which records are seen (`isolation.level`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// All records below the high watermark.
    #[default]
    ReadUncommitted,
    /// Records below the last stable offset.
    ReadCommitted,
}

impl From<Isolation> for crate::proto::IsolationLevel {
    fn from(isolation: Isolation) -> Self {
        match isolation {
            Isolation::ReadUncommitted => Self::ReadUncommitted,
            Isolation::ReadCommitted => Self::ReadCommitted,
        }
    }
}
