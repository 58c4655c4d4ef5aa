//! The Rust SDK of Thalweg: producer, group consumer, partition reader, admin.
//!
//! ```no_run
//! use thalweg_client::{Client, ClientConfig, NewTopic, ProducerConfig, ProducerRecord, ReaderConfig, Start};
//! use thalweg_core::PartitionId;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(ClientConfig::new(["127.0.0.1:9292"])).await?;
//! client.admin().create_topic(NewTopic::new("greetings")).await?;
//!
//! let producer = client.producer(ProducerConfig::default()).await?;
//! let delivery = producer.send(ProducerRecord::new("greetings").key(b"en").value(b"hello")).await?;
//! println!("written at offset {}", delivery.await?.offset);
//! producer.close().await?;
//!
//! let mut reader = client.reader(ReaderConfig::default()).await?;
//! reader.assign("greetings", PartitionId(0), Start::Earliest).await?;
//! let chunk = reader.next().await?;
//! let mut scratch = Vec::new();
//! let mut records = chunk.records(&mut scratch);
//! while let Some(record) = records.next_record() {
//!     println!("{:?}", record?.value);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A [`Consumer`] is a member of a group: the group's members share the partitions, and go on where the group was.
//!
//! ```no_run
//! use std::time::Duration;
//! use thalweg_client::{Client, ClientConfig, ConsumerConfig, OffsetReset};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(ClientConfig::new(["127.0.0.1:9292"])).await?;
//! let mut config = ConsumerConfig::new("greeters");
//! config.offset_reset = OffsetReset::Earliest;
//! config.enable_auto_commit = false;
//! let mut consumer = client.consumer(config)?;
//! consumer.subscribe(["greetings"])?;
//! for _ in 0..10 {
//!     for record in consumer.poll(Duration::from_secs(1)).await? {
//!         println!("{}-{} at {}: {:?}", record.topic, record.partition, record.offset, record.value);
//!     }
//!     // At least once: committed only when it is dealt with.
//!     match consumer.commit().await {
//!         Err(error) if !error.retriable() => eprintln!("another member goes on from before: {error}"),
//!         other => other?,
//!     }
//! }
//! consumer.close().await?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod admin;
mod client;
mod config;
mod consumer;
pub mod controllers;
mod error;
mod metadata;
mod net;
mod producer;
mod raw;
mod reader;
pub mod trace;

pub use admin::{Admin, BrokerReport, NewTopic};
pub use client::Client;
pub use config::{ClientConfig, Isolation, Start};
pub use consumer::{
    CommitError, Consumer, ConsumerConfig, ConsumerError, ConsumerInterceptor, ConsumerRecord,
    DeserializeError, Deserializer, OffsetAndMetadata, Rebalance, RebalanceListener, RecordHeader,
    TypedConsumer, TypedRecord,
};
pub use error::{ClientError, ConfigError};
pub use metadata::{PartitionMetadata, TopicMetadata};
pub use net::{BoxedIo, Connector, Io, TcpConnector};
pub use producer::{
    Acks, Delivery, DeliveryError, OwnedHeader, OwnedRecord, Partitioner, PartitionerFn, Producer,
    ProducerConfig, ProducerInterceptor, ProducerRecord, RecordMetadata, SendError, Serializer,
    TypedProducer, serializers,
};
pub use raw::{RawAck, RawProduceStream};
pub use reader::{Chunk, ChunkRecords, ChunkTopic, OffsetReset, PartitionReader, ReadError, ReaderConfig};
pub use thalweg_core::batch::{Header, RecordView};
pub use thalweg_core::compression::Compression;
/// The messages of the API, package `thalweg.v1`.
pub use thalweg_proto::v1 as proto;
