//! `thalweg cluster`.

use super::{connect, refused};
use crate::args::{ClusterArgs, ClusterCommand, Global, OutputFormat};
use crate::error::CliError;
use crate::output::{print_json, print_line};
use serde_json::{Value, json};
use thalweg_client::proto;

/// Runs one of its subcommands.
pub async fn run(global: &Global, args: ClusterArgs) -> Result<(), CliError> {
    let ClusterCommand::Describe = args.command;
    let admin = connect(global).await?.admin();
    let cluster = admin.describe_cluster().await.map_err(|error| refused(error, None))?;
    match global.output {
        OutputFormat::Text => print_line(&cluster_text(&cluster))?,
        OutputFormat::Json => print_json(&cluster_json(&cluster))?,
    }
    match cluster.offline_partitions {
        0 => Ok(()),
        n => Err(CliError::failed(format_args!("{n} partitions have no leader"))),
    }
}

fn cluster_text(cluster: &proto::DescribeClusterResponse) -> String {
    let mut lines = vec![
        format!("Cluster: {}\tMetadataVersion: {}", cluster.cluster_id, cluster.metadata_version),
        format!(
            "Topics: {}\tPartitions: {}\tUnderReplicated: {}\tOffline: {}",
            cluster.topic_count,
            cluster.partition_count,
            cluster.under_replicated_partitions,
            cluster.offline_partitions
        ),
    ];
    for controller in &cluster.controllers {
        let role = match (controller.id == cluster.controller_leader_id, controller.voter) {
            (true, _) => format!("leader\tTerm: {}", cluster.controller_term),
            (false, true) => "voter".to_owned(),
            (false, false) => "observer".to_owned(),
        };
        lines.push(format!("\tController: {}\tRole: {role}", controller.id));
    }
    for broker in &cluster.brokers {
        let state = if broker.fenced { "fenced" } else { "alive" };
        let rack = if broker.rack.is_empty() { "none" } else { &broker.rack };
        lines.push(format!(
            "\tBroker: {}\tEndpoint: {}\tState: {state}\tRack: {rack}",
            broker.id, broker.endpoint
        ));
    }
    lines.join("\n")
}

fn cluster_json(cluster: &proto::DescribeClusterResponse) -> Value {
    let brokers: Vec<Value> = cluster
        .brokers
        .iter()
        .map(|broker| {
            json!({
                "id": broker.id,
                "endpoint": broker.endpoint,
                "rack": broker.rack,
                "fenced": broker.fenced,
                "epoch": broker.epoch,
            })
        })
        .collect();
    let controllers: Vec<Value> = cluster
        .controllers
        .iter()
        .map(|controller| json!({"id": controller.id, "voter": controller.voter}))
        .collect();
    json!({
        "cluster_id": cluster.cluster_id,
        "metadata_version": cluster.metadata_version,
        "controller_leader_id": cluster.controller_leader_id,
        "controller_term": cluster.controller_term,
        "controllers": controllers,
        "brokers": brokers,
        "topics": cluster.topic_count,
        "partitions": cluster.partition_count,
        "under_replicated_partitions": cluster.under_replicated_partitions,
        "offline_partitions": cluster.offline_partitions,
    })
}
