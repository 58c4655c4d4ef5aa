//! `thalweg cluster`.

mod features;

use super::broker::{known_json, state};
use super::{connect, refused};
use crate::args::{ClusterArgs, ClusterCommand, Global, OutputFormat};
use crate::error::CliError;
use crate::output::{print_json, print_line};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use thalweg_client::{Admin, proto};

/// How often the cluster's health is looked at while it is waited for.
const HEALTH_POLL: Duration = Duration::from_millis(500);

/// Runs one of its subcommands.
pub async fn run(global: &Global, args: ClusterArgs) -> Result<(), CliError> {
    let admin = connect(global).await?.admin();
    match args.command {
        ClusterCommand::Describe => describe(global, &admin).await,
        ClusterCommand::Health { timeout_ms } => {
            health(global, &admin, Duration::from_millis(timeout_ms)).await
        }
        ClusterCommand::AddVoter { voter } => {
            let added = admin.add_voter(voter.id.get(), &voter.endpoint.to_string()).await;
            let voters = added.map_err(|error| refused(error, None))?;
            tell_voters(global, &format!("controller {} votes", voter.id), &voters)
        }
        ClusterCommand::Features { command } => features::run(global, &admin, command).await,
        ClusterCommand::RemoveCoordinator { id } => {
            admin.unregister_coordinator(id).await.map_err(|error| refused(error, None))?;
            match global.output {
                OutputFormat::Text => print_line(&format!("coordinator {id} is forgotten")),
                OutputFormat::Json => print_json(&json!({"id": id, "unregistered": true})),
            }
        }
        ClusterCommand::RemoveVoter { id } => {
            let voters = admin.remove_voter(id).await.map_err(|error| refused(error, None))?;
            tell_voters(global, &format!("controller {id} votes no more"), &voters)
        }
    }
}

fn tell_voters(global: &Global, done: &str, voters: &[u64]) -> Result<(), CliError> {
    match global.output {
        OutputFormat::Text => {
            let voters: Vec<String> = voters.iter().map(u64::to_string).collect();
            print_line(&format!("{done}; the voters are {}", voters.join(",")))
        }
        OutputFormat::Json => print_json(&json!({"voters": voters})),
    }
}

async fn describe(global: &Global, admin: &Admin) -> Result<(), CliError> {
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

async fn health(global: &Global, admin: &Admin, wait: Duration) -> Result<(), CliError> {
    let begun = Instant::now();
    let complaints = loop {
        let cluster = admin.describe_cluster().await.map_err(|error| refused(error, None))?;
        let complaints = complaints(&cluster);
        let left = wait.saturating_sub(begun.elapsed());
        if complaints.is_empty() || left.is_zero() {
            break complaints;
        }
        tokio::time::sleep(HEALTH_POLL.min(left)).await;
    };
    let healthy = complaints.is_empty();
    match global.output {
        OutputFormat::Text if healthy => print_line("healthy")?,
        OutputFormat::Text => complaints.iter().try_for_each(|complaint| print_line(complaint))?,
        OutputFormat::Json => print_json(&json!({"healthy": healthy, "complaints": complaints}))?,
    }
    if healthy {
        return Ok(());
    }
    Err(CliError::failed("the cluster is not healthy").with_hint("look closer: thalweg cluster describe"))
}

/// What is not as it should be, a sentence each.
fn complaints(cluster: &proto::DescribeClusterResponse) -> Vec<String> {
    let mut complaints = Vec::new();
    let leads =
        |controller: &proto::Controller| controller.id == cluster.controller_leader_id && controller.voter;
    if !cluster.controllers.iter().any(leads) {
        complaints.push("no controller leads: nothing about topics and brokers can change".to_owned());
    }
    let gone = cluster.brokers.iter().filter(|broker| broker.fenced);
    complaints.extend(gone.map(|broker| format!("broker {} at {} is gone", broker.id, broker.endpoint)));
    let lost = cluster.coordinators.iter().filter(|coordinator| coordinator.fenced);
    let nobody = !cluster.coordinators.is_empty() && !cluster.coordinators.iter().any(serves);
    complaints.extend(lost.map(|one| {
        format!(
            "coordinator {} at {} is gone; if it is gone for good: thalweg cluster remove-coordinator {}",
            one.id, one.endpoint, one.id
        )
    }));
    if nobody {
        complaints.push("no coordinator is left: consumer groups stand still".to_owned());
    }
    if let Some(wait) = &cluster.groups_wait {
        complaints.push(awaited(wait));
    }
    if cluster.offline_partitions > 0 {
        complaints.push(format!("{} partitions have no leader", cluster.offline_partitions));
    }
    if cluster.under_replicated_partitions > 0 {
        complaints.push(format!(
            "{} partitions have fewer replicas in sync than replicas",
            cluster.under_replicated_partitions
        ));
    }
    complaints
}

/// What keeps groups from being served.
fn awaited(wait: &proto::GroupsWait) -> String {
    let (needed, brokers) = (wait.needed_brokers, wait.brokers);
    format!(
        "consumer groups wait for brokers: __consumer_offsets needs {needed} that can hold a replica, and there are {brokers}"
    )
}

fn serves(coordinator: &proto::Coordinator) -> bool {
    !coordinator.fenced && !coordinator.stopping
}

fn coordinator_state(coordinator: &proto::Coordinator) -> &'static str {
    match (coordinator.fenced, coordinator.stopping) {
        (true, _) => "fenced",
        (false, true) => "stopping",
        (false, false) => "alive",
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
        let endpoint = if controller.endpoint.is_empty() { "unknown" } else { &controller.endpoint };
        lines.push(format!("\tController: {}\tEndpoint: {endpoint}\tRole: {role}", controller.id));
    }
    for broker in &cluster.brokers {
        let rack = if broker.rack.is_empty() { "none" } else { &broker.rack };
        lines.push(format!(
            "\tBroker: {}\tEndpoint: {}\tState: {}\tRack: {rack}\tReplicas: {}\tLeaders: {}",
            broker.id,
            broker.endpoint,
            state(broker),
            broker.replica_count,
            broker.leader_count
        ));
    }
    for coordinator in &cluster.coordinators {
        let rack = if coordinator.rack.is_empty() { "none" } else { &coordinator.rack };
        lines.push(format!(
            "\tCoordinator: {}\tEndpoint: {}\tState: {}\tRack: {rack}\tShards: {}",
            coordinator.id,
            coordinator.endpoint,
            coordinator_state(coordinator),
            coordinator.shard_count
        ));
    }
    lines.extend(cluster.groups_wait.iter().map(|wait| format!("\tWaiting: {}", awaited(wait))));
    lines.join("\n")
}

fn cluster_json(cluster: &proto::DescribeClusterResponse) -> Value {
    let controllers: Vec<Value> = cluster
        .controllers
        .iter()
        .map(|controller| {
            json!({"id": controller.id, "voter": controller.voter, "endpoint": controller.endpoint})
        })
        .collect();
    let coordinators: Vec<Value> = cluster
        .coordinators
        .iter()
        .map(|one| {
            json!({
                "id": one.id,
                "endpoint": one.endpoint,
                "rack": one.rack,
                "fenced": one.fenced,
                "stopping": one.stopping,
                "epoch": one.epoch,
                "shards": one.shard_count,
            })
        })
        .collect();
    json!({
        "cluster_id": cluster.cluster_id,
        "metadata_version": cluster.metadata_version,
        "controller_leader_id": cluster.controller_leader_id,
        "controller_term": cluster.controller_term,
        "controllers": controllers,
        "brokers": cluster.brokers.iter().map(known_json).collect::<Vec<_>>(),
        "coordinators": coordinators,
        "topics": cluster.topic_count,
        "partitions": cluster.partition_count,
        "under_replicated_partitions": cluster.under_replicated_partitions,
        "offline_partitions": cluster.offline_partitions,
        "groups_wait": cluster.groups_wait.as_ref().map(|wait| json!({
            "brokers": wait.brokers,
            "needed_brokers": wait.needed_brokers,
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ailment_is_told() {
        let broker = |id, fenced| proto::Broker { id, fenced, ..Default::default() };
        let mut cluster = proto::DescribeClusterResponse {
            brokers: vec![broker(0, false), broker(1, false)],
            controllers: vec![proto::Controller { id: 1, voter: true, ..Default::default() }],
            controller_leader_id: 1,
            ..Default::default()
        };
        assert!(complaints(&cluster).is_empty());
        cluster.controller_leader_id = 0;
        cluster.brokers[1].fenced = true;
        cluster.offline_partitions = 2;
        cluster.under_replicated_partitions = 3;
        cluster.coordinators = vec![proto::Coordinator { id: 9, fenced: true, ..Default::default() }];
        cluster.groups_wait = Some(proto::GroupsWait { brokers: 1, needed_brokers: 3 });
        let told = complaints(&cluster);
        assert_eq!(told.len(), 7, "{told:?}");
        assert!(told[1].contains("broker 1") && told[5].contains('2') && told[6].contains('3'), "{told:?}");
        let text = "__consumer_offsets needs 3 that can hold a replica, and there are 1";
        assert!(told[4].contains(text) && cluster_text(&cluster).contains(text), "{told:?}");
        assert_eq!(cluster_json(&cluster)["groups_wait"], json!({"brokers": 1, "needed_brokers": 3}));
        cluster.groups_wait = None;
        assert_eq!(cluster_json(&cluster)["groups_wait"], Value::Null);
        assert!(!cluster_text(&cluster).contains("Waiting"));
        assert!(told[2].contains("coordinator 9") && told[3].contains("groups stand still"), "{told:?}");
    }
}
