//! `thalweg bench group`: consumer groups, measured from outside.

mod commits;
mod consumer;
mod heartbeats;
mod member;
mod members;
mod servers;
mod subscribe;

use super::args::GroupBench;
use crate::args::Global;
use crate::commands::{connect, refused};
use crate::error::CliError;
use std::time::Duration;
use thalweg_client::proto::group_service_client::GroupServiceClient;
use thalweg_client::{Admin, Client};
use tonic::transport::{Channel, Endpoint};

/// Bytes of an answer that is read.
const MAX_ANSWER: usize = 64 << 20;
/// A server takes 256 calls at once on a connection; a member that waits holds one of them.
const MEMBERS_OF_A_CONNECTION: usize = 200;

/// A client of the generated stubs.
pub type Stub = GroupServiceClient<Channel>;

/// Runs one of its cases.
pub async fn run(global: &Global, args: &GroupBench) -> Result<(), CliError> {
    let client = connect(global).await?;
    let report = match args {
        GroupBench::Members(args) => members::run(global, &client, args).await?,
        GroupBench::Heartbeats(args) => heartbeats::run(global, &client, args).await?,
        GroupBench::Commits(args) => commits::run(global, &client, args).await?,
        GroupBench::Subscribe(args) => subscribe::run(global, &client, args).await?,
        GroupBench::Consumer(args) => consumer::run(&client, args).await?,
    };
    report.print(global)
}

/// Connections to the brokers of `--bootstrap`, one after the other, enough for so many members.
async fn stubs(global: &Global, members: usize) -> Result<Vec<Stub>, CliError> {
    let mut stubs = Vec::new();
    for index in 0..members.div_ceil(MEMBERS_OF_A_CONNECTION).max(1) {
        let endpoint = &global.bootstrap[index % global.bootstrap.len()];
        let channel = Endpoint::from_shared(format!("http://{endpoint}"))
            .map_err(|error| CliError::usage(format_args!("--bootstrap {endpoint}: {error}")))?
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(10))
            .connect()
            .await
            .map_err(CliError::failed)?;
        stubs.push(GroupServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER));
    }
    Ok(stubs)
}

/// A name that no other run has.
fn unique(what: &str) -> String {
    let since_epoch = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("bench-{what}-{}-{}", std::process::id(), since_epoch.as_micros())
}

/// Forgets the groups of a case.
async fn forget(admin: &Admin, groups: &[String]) -> Result<(), CliError> {
    for group in groups {
        admin.delete_group(group).await.map_err(|error| refused(error, None))?;
    }
    Ok(())
}

/// Makes a topic with so many partitions, and gives its name.
async fn make_topic(client: &Client, partitions: i32, replication_factor: i32) -> Result<String, CliError> {
    let name = unique("group");
    let topic = thalweg_client::NewTopic {
        partitions: Some(partitions),
        replication_factor: Some(replication_factor),
        ..thalweg_client::NewTopic::new(&name)
    };
    client.admin().create_topic(topic).await.map_err(|error| refused(error, Some(&name)))?;
    Ok(name)
}
