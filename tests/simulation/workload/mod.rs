//! What clients do during a run. Everything that they do and see goes into the history.

mod admin;
mod drain;
mod group;
mod produce;
pub mod read;

pub use admin::create_topics;
pub use drain::drain;
pub use group::{consume, settle};
pub use produce::produce;
pub use read::{ask_ends, read};

use crate::checker::Value;
use crate::net::SimConnector;
use std::time::Duration;
use thalweg_client::{Client, ClientConfig};
use tokio::time::sleep;

/// A client of the cluster; tries until there is one.
async fn connect(bootstrap: &[String]) -> Client {
    connect_for(bootstrap, Duration::from_secs(300)).await
}

/// The same, which takes its metadata for good for so long unless something fails.
async fn connect_for(bootstrap: &[String], metadata_max_age: Duration) -> Client {
    loop {
        let mut config = ClientConfig::new(bootstrap.iter().cloned());
        config.metadata_max_age = metadata_max_age;
        config.request_timeout = Duration::from_secs(10);
        match Client::connect_with(config, SimConnector).await {
            Ok(client) => return client,
            Err(error) => {
                tracing::info!(target: "thalweg_simulation", %error, "no cluster yet");
                sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

/// The bytes of a record: its value, and some more.
fn encode(value: Value, padding: usize) -> Vec<u8> {
    let mut bytes = value.0.to_be_bytes().to_vec();
    bytes.resize(8 + padding, b'.');
    bytes
}

/// The records of an answer with plain records.
fn records_of(data: &thalweg_client::proto::PartitionData) -> Vec<(i64, Value)> {
    match &data.data {
        Some(thalweg_client::proto::partition_data::Data::Records(found)) => {
            found.records.iter().map(|record| (record.offset, decode(record.value.as_deref()))).collect()
        }
        _ => Vec::new(),
    }
}

/// The value of a record; `u64::MAX` if that is not what was written.
fn decode(bytes: Option<&[u8]>) -> Value {
    let first = bytes.and_then(|bytes| bytes.first_chunk::<8>());
    Value(first.map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes)))
}
