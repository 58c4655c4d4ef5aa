//! `thalweg topic reassign|elect-leaders`: who holds and who leads.

use crate::args::{Global, OutputFormat};
use crate::commands::refused;
use crate::error::CliError;
use crate::output::{comma, print_json, print_line};
use serde_json::{Value, json};
use std::time::Duration;
use thalweg_client::{Admin, ClientError, proto};
use thalweg_core::ErrorCode;

/// How often moves are looked at while they are waited for.
const POLL: Duration = Duration::from_millis(500);

/// What `topic reassign` is asked to do.
pub struct Reassign {
    /// The topic; none: show what moves.
    pub name: Option<String>,
    /// Only these partitions; none: all.
    pub partitions: Vec<i32>,
    /// The new replicas.
    pub replicas: Vec<i32>,
    /// Take the added ones away again.
    pub cancel: bool,
    /// Wait until it is done.
    pub wait: bool,
}

/// Gives partitions other replicas, or shows what moves.
pub async fn reassign(global: &Global, admin: &Admin, asked: Reassign) -> Result<(), CliError> {
    let Reassign { name, partitions, replicas, cancel, wait } = asked;
    let topic = match name {
        Some(topic) if cancel || !replicas.is_empty() => topic,
        name => {
            if !partitions.is_empty() {
                return Err(CliError::usage("give --replicas or --cancel for the partitions to move"));
            }
            let topics: Vec<String> = name.into_iter().collect();
            return match wait {
                true => wait_for(global, admin, &topics).await,
                false => show(global, &moving(admin, &topics).await?),
            };
        }
    };
    let chosen = match (partitions.is_empty(), cancel) {
        (false, _) => partitions,
        (true, false) => all_partitions(admin, &topic).await?,
        // Those that stay need not be told to.
        (true, true) => {
            let moving = moving(admin, std::slice::from_ref(&topic)).await?;
            moving.iter().map(|reassignment| reassignment.partition).collect()
        }
    };
    let count = chosen.len();
    if count > 0 {
        let reassignments = chosen.into_iter().map(|partition| proto::PartitionReassignment {
            topic: topic.clone(),
            partition,
            replicas: replicas.clone(),
        });
        let refused_ones =
            admin.reassign(reassignments.collect()).await.map_err(|error| not_moved(error, &topic))?;
        if let Some((partition, why)) = refused_ones.into_iter().next() {
            let error = ClientError::Refused(Box::new(why));
            let hint = hint(&error, &topic);
            let failed =
                CliError::failed(format_args!("{}-{}: {error}", partition.topic, partition.partition));
            return Err(match hint {
                Some(hint) => failed.with_hint(hint),
                None => failed,
            });
        }
    }
    if wait {
        return wait_for(global, admin, &[topic]).await;
    }
    let plural = if count == 1 { "" } else { "s" };
    match (global.output, cancel) {
        (OutputFormat::Json, _) => show(global, &moving(admin, &[topic]).await?),
        (OutputFormat::Text, true) => {
            print_line(&format!("{count} partition{plural} of {topic} stay where they were"))
        }
        (OutputFormat::Text, false) => print_line(&format!(
            "{count} partition{plural} of {topic} move to brokers {}; see how far they are: thalweg topic reassign {topic}",
            comma(&replicas)
        )),
    }
}

async fn all_partitions(admin: &Admin, topic: &str) -> Result<Vec<i32>, CliError> {
    let described = admin.describe_topics(&[topic.to_owned()]).await;
    let described = described.map_err(|error| refused(error, Some(topic)))?;
    Ok(described.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.partition).collect())
}

async fn moving(admin: &Admin, topics: &[String]) -> Result<Vec<proto::Reassignment>, CliError> {
    let topic = topics.first().map(String::as_str);
    admin.list_reassignments(topics).await.map_err(|error| refused(error, topic))
}

async fn wait_for(global: &Global, admin: &Admin, topics: &[String]) -> Result<(), CliError> {
    let mut told = Vec::new();
    loop {
        let moving = moving(admin, topics).await?;
        if moving.is_empty() {
            return match global.output {
                OutputFormat::Text => print_line("every replica is where it shall be"),
                OutputFormat::Json => print_json(&json!([])),
            };
        }
        let lines: Vec<String> = moving.iter().map(text).collect();
        if global.output == OutputFormat::Text && lines != told {
            lines.iter().try_for_each(|line| print_line(line))?;
            told = lines;
        }
        tokio::time::sleep(POLL).await;
    }
}

fn show(global: &Global, moving: &[proto::Reassignment]) -> Result<(), CliError> {
    match global.output {
        OutputFormat::Text => moving.iter().try_for_each(|one| print_line(&text(one))),
        OutputFormat::Json => print_json(&Value::Array(moving.iter().map(as_json).collect())),
    }
}

fn text(moving: &proto::Reassignment) -> String {
    let lag = moving.lag.map_or(String::new(), |lag| format!("\tLag: {lag} records"));
    let bytes =
        moving.log_bytes.map_or(String::new(), |bytes| format!("\tLog: {:.1} MB", bytes as f64 / 1e6));
    format!(
        "Topic: {}\tPartition: {}\tReplicas: {}\tAdding: {}\tRemoving: {}{bytes}{lag}",
        moving.topic,
        moving.partition,
        comma(&moving.replicas),
        comma(&moving.adding_replicas),
        comma(&moving.removing_replicas),
    )
}

fn as_json(moving: &proto::Reassignment) -> Value {
    json!({
        "topic": moving.topic,
        "partition": moving.partition,
        "replicas": moving.replicas,
        "adding": moving.adding_replicas,
        "removing": moving.removing_replicas,
        "log_bytes": moving.log_bytes,
        "lag": moving.lag,
    })
}

/// Lets preferred replicas lead, or any.
pub async fn elect(
    global: &Global,
    admin: &Admin,
    name: Option<String>,
    partitions: Vec<i32>,
    unclean: bool,
) -> Result<(), CliError> {
    let wanted = match name {
        None => Vec::new(),
        Some(topic) => {
            let chosen =
                if partitions.is_empty() { all_partitions(admin, &topic).await? } else { partitions };
            let named = |partition| proto::TopicPartition { topic: topic.clone(), partition };
            chosen.into_iter().map(named).collect()
        }
    };
    let topic = wanted.first().map(|partition| partition.topic.clone());
    let elected = admin.elect_leaders(wanted, unclean).await;
    let elected = elected.map_err(|error| match &topic {
        Some(topic) => not_moved(error, topic),
        None => refused(error, None),
    })?;
    match global.output {
        OutputFormat::Text => {
            for partition in &elected {
                print_line(&format!("elected a leader of {}-{}", partition.topic, partition.partition))?;
            }
            if elected.is_empty() {
                print_line("nothing to elect")?;
            }
            Ok(())
        }
        OutputFormat::Json => print_json(&Value::Array(
            elected
                .iter()
                .map(|partition| json!({"topic": partition.topic, "partition": partition.partition}))
                .collect(),
        )),
    }
}

fn not_moved(error: ClientError, topic: &str) -> CliError {
    match hint(&error, topic) {
        Some(hint) => CliError::failed(error).with_hint(hint),
        None => refused(error, Some(topic)),
    }
}

fn hint(error: &ClientError, topic: &str) -> Option<String> {
    match error.code()? {
        ErrorCode::UnknownBroker => Some("see which there are: thalweg broker list".to_owned()),
        code => CliError::hint_for(code, Some(topic)),
    }
}
