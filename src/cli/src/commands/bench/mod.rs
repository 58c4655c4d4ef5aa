//! `thalweg bench`: what a cluster does, measured from a client, and held against the machine's own limits.

pub mod args;
mod fetch;
mod group;
mod latency;
mod limits;
mod produce;
mod report;
mod suite;
mod unary;

use super::{connect, refused};
use crate::args::Global;
use crate::error::CliError;
use args::{BenchArgs, BenchCommand, Common};
use std::time::Duration;
use thalweg_client::{Client, NewTopic};

/// How long a case runs if nothing else is said.
const DEFAULT_SECONDS: f64 = 10.0;
/// The longest value that a case writes.
const MAX_RECORD_SIZE: usize = 64 << 20;

/// Runs one of its subcommands.
pub async fn run(global: &Global, args: BenchArgs) -> Result<(), CliError> {
    match args.command {
        BenchCommand::Produce(args) => produce::run(&connect(global).await?, &args).await?.print(global),
        BenchCommand::Fetch(args) => fetch::run(&connect(global).await?, &args).await?.print(global),
        BenchCommand::Latency(args) => latency::run(&connect(global).await?, &args).await?.print(global),
        BenchCommand::Unary(args) => unary::run(global, &connect(global).await?, &args).await?.print(global),
        BenchCommand::Group(args) => group::run(global, &args).await,
        BenchCommand::Limits(args) => limits::run(global, &args),
        BenchCommand::Suite(args) => suite::run(global, &args).await,
    }
}

/// When a case ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After so many records.
    Records(u64),
    /// After so much time.
    Elapsed(Duration),
}

impl Common {
    /// When the case ends.
    pub fn until(&self) -> Result<Until, CliError> {
        match (self.records, self.seconds) {
            (Some(records), _) => Ok(Until::Records(records)),
            (None, seconds) => {
                let seconds = seconds.unwrap_or(DEFAULT_SECONDS);
                if !(0.01..=86_400.0).contains(&seconds) {
                    return Err(CliError::usage("--seconds must be between 0.01 and 86400"));
                }
                Ok(Until::Elapsed(Duration::from_secs_f64(seconds)))
            }
        }
    }

    /// The value of every record: bytes that do not compress to nothing, but do compress.
    pub fn value(&self) -> Result<Vec<u8>, CliError> {
        if self.record_size > MAX_RECORD_SIZE {
            return Err(CliError::usage(format_args!("--record-size cannot be above {MAX_RECORD_SIZE}")));
        }
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let next = |state: &mut u64| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            b"0123456789abcdef"[(*state >> 60) as usize]
        };
        Ok((0..self.record_size).map(|_| next(&mut state)).collect())
    }
}

/// The topic of a case; deleted again if it was made for it.
pub struct BenchTopic {
    client: Client,
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: u32,
    made: bool,
}

impl BenchTopic {
    /// Takes the topic that was named, or makes one.
    pub async fn open(client: &Client, common: &Common) -> Result<BenchTopic, CliError> {
        if let Some(name) = &common.topic {
            let metadata = client.metadata(name).await.map_err(|error| refused(error, Some(name)))?;
            let partitions = metadata.partitions.len() as u32;
            return Ok(BenchTopic { client: client.clone(), name: name.clone(), partitions, made: false });
        }
        let mut configs = std::collections::BTreeMap::new();
        for config in &common.configs {
            let (key, value) =
                config.split_once('=').ok_or_else(|| CliError::usage("--config needs KEY=VALUE"))?;
            configs.insert(key.to_owned(), value.to_owned());
        }
        let since_epoch =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let name = format!("bench-{}-{}", std::process::id(), since_epoch.as_micros());
        let topic = NewTopic {
            name: name.clone(),
            partitions: Some(common.partitions),
            replication_factor: Some(common.replication_factor),
            configs,
        };
        let topic = client.admin().create_topic(topic).await.map_err(|error| refused(error, Some(&name)))?;
        Ok(BenchTopic { client: client.clone(), name, partitions: topic.partitions.len() as u32, made: true })
    }

    /// Deletes the topic if this case made it.
    pub async fn close(self) -> Result<(), CliError> {
        if self.made {
            self.client
                .admin()
                .delete_topic(&self.name)
                .await
                .map_err(|error| refused(error, Some(&self.name)))?;
        }
        Ok(())
    }
}
