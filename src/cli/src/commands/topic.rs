//! `thalweg topic`.

mod moves;

use super::{connect, refused};
use crate::args::{Global, OutputFormat, TopicArgs, TopicCommand};
use crate::error::CliError;
use crate::output::{comma, print_json, print_line};
use serde_json::{Value, json};
use std::fmt::Write;
use thalweg_client::{Admin, NewTopic, proto};

/// Runs one of its subcommands.
pub async fn run(global: &Global, args: TopicArgs) -> Result<(), CliError> {
    let admin = connect(global).await?.admin();
    match args.command {
        TopicCommand::Create { name, partitions, replication_factor, configs } => {
            let topic = NewTopic {
                name: name.clone(),
                partitions,
                replication_factor,
                configs: configs.into_iter().collect(),
            };
            let created = admin.create_topic(topic).await.map_err(|error| refused(error, Some(&name)))?;
            match global.output {
                OutputFormat::Text => print_line(&format!(
                    "created topic {name} with {} partition{}",
                    created.partitions.len(),
                    if created.partitions.len() == 1 { "" } else { "s" }
                )),
                OutputFormat::Json => print_json(&topic_json(&created)),
            }
        }
        TopicCommand::List => list(global, &admin).await,
        TopicCommand::Describe { name, all_configs: false } => {
            describe(global, &admin, name.as_deref()).await
        }
        TopicCommand::Describe { name, all_configs: true } => {
            configs(global, &admin, &name.unwrap_or_default()).await
        }
        TopicCommand::Alter { name, configs, delete_configs, partitions } => {
            if configs.is_empty() && delete_configs.is_empty() && partitions.is_none() {
                return Err(CliError::usage(
                    "nothing to alter: give --config, --delete-config or --partitions",
                ));
            }
            let refuse = |error| refused(error, Some(&name));
            if !configs.is_empty() || !delete_configs.is_empty() {
                admin
                    .alter_configs(&name, configs.into_iter().collect(), delete_configs)
                    .await
                    .map_err(refuse)?;
            }
            if let Some(total) = partitions {
                admin.create_partitions(&name, total).await.map_err(refuse)?;
            }
            match global.output {
                OutputFormat::Text => print_line(&format!("altered topic {name}")),
                OutputFormat::Json => describe(global, &admin, Some(&name)).await,
            }
        }
        TopicCommand::Delete { name } => {
            admin.delete_topic(&name).await.map_err(|error| {
                CliError::failed(error).with_hint("see which topics there are: thalweg topic list")
            })?;
            match global.output {
                OutputFormat::Text => print_line(&format!("deleted topic {name}")),
                OutputFormat::Json => print_json(&json!({"name": name, "deleted": true})),
            }
        }
        TopicCommand::Reassign { name, partitions, replicas, cancel, wait } => {
            let asked = moves::Reassign { name, partitions, replicas, cancel, wait };
            moves::reassign(global, &admin, asked).await
        }
        TopicCommand::ElectLeaders { name, partitions, unclean } => {
            moves::elect(global, &admin, name, partitions, unclean).await
        }
    }
}

async fn list(global: &Global, admin: &Admin) -> Result<(), CliError> {
    let topics = admin.list_topics().await.map_err(|error| refused(error, None))?;
    match global.output {
        OutputFormat::Text => topics.iter().try_for_each(|topic| print_line(&topic.name)),
        OutputFormat::Json => {
            let topics: Vec<Value> = topics
                .iter()
                .map(|topic| {
                    json!({
                        "name": topic.name,
                        "topic_id": topic.topic_id,
                        "partitions": topic.partition_count,
                        "replication_factor": topic.replication_factor,
                        "internal": topic.internal,
                    })
                })
                .collect();
            print_json(&Value::Array(topics))
        }
    }
}

async fn describe(global: &Global, admin: &Admin, name: Option<&str>) -> Result<(), CliError> {
    let names: Vec<String> = name.map(str::to_owned).into_iter().collect();
    let topics = admin.describe_topics(&names).await.map_err(|error| refused(error, name))?;
    match global.output {
        OutputFormat::Text => topics.iter().try_for_each(|topic| print_line(&topic_text(topic))),
        OutputFormat::Json => print_json(&match name {
            Some(_) => topics.first().map_or(Value::Null, topic_json),
            None => Value::Array(topics.iter().map(topic_json).collect()),
        }),
    }
}

async fn configs(global: &Global, admin: &Admin, name: &str) -> Result<(), CliError> {
    let configs = admin.describe_configs(name).await.map_err(|error| refused(error, Some(name)))?;
    match global.output {
        OutputFormat::Text => configs.iter().try_for_each(|config| {
            let origin = if config.is_overridden {
                format!("default {}", config.default_value)
            } else {
                "default".to_owned()
            };
            print_line(&format!("{}={} ({origin})\n    {}", config.name, config.value, config.documentation))
        }),
        OutputFormat::Json => {
            let configs: Vec<Value> = configs
                .iter()
                .map(|config| {
                    json!({
                        "name": config.name,
                        "value": config.value,
                        "default": config.default_value,
                        "overridden": config.is_overridden,
                        "unit": config.unit,
                        "documentation": config.documentation,
                    })
                })
                .collect();
            print_json(&Value::Array(configs))
        }
    }
}

/// The lines of `describe`, as Kafka's users know them.
fn topic_text(topic: &proto::Topic) -> String {
    let configs: Vec<String> = topic.configs.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut text = format!(
        "Topic: {}\tPartitionCount: {}\tReplicationFactor: {}\tConfigs: {}",
        topic.name,
        topic.partitions.len(),
        topic.replication_factor,
        configs.join(",")
    );
    for partition in &topic.partitions {
        let leader =
            if partition.leader_id < 0 { "none".to_owned() } else { partition.leader_id.to_string() };
        let written = write!(
            text,
            "\n\tTopic: {}\tPartition: {}\tLeader: {leader}\tReplicas: {}\tIsr: {}",
            topic.name,
            partition.partition,
            comma(&partition.replicas),
            comma(&partition.isr)
        );
        written.expect("writing to a String cannot fail");
        for (name, brokers) in [
            ("Elr", &partition.eligible_leader_replicas),
            ("Adding", &partition.adding_replicas),
            ("Removing", &partition.removing_replicas),
        ] {
            if !brokers.is_empty() {
                text.push_str(&format!("\t{name}: {}", comma(brokers)));
            }
        }
    }
    text
}

fn topic_json(topic: &proto::Topic) -> Value {
    let partitions: Vec<Value> = topic
        .partitions
        .iter()
        .map(|partition| {
            json!({
                "partition": partition.partition,
                "leader": partition.leader_id,
                "leader_epoch": partition.leader_epoch,
                "replicas": partition.replicas,
                "isr": partition.isr,
                "eligible_leader_replicas": partition.eligible_leader_replicas,
                "adding_replicas": partition.adding_replicas,
                "removing_replicas": partition.removing_replicas,
            })
        })
        .collect();
    json!({
        "name": topic.name,
        "topic_id": topic.topic_id,
        "replication_factor": topic.replication_factor,
        "internal": topic.internal,
        "configs": topic.configs,
        "partitions": partitions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describe_prints_kafkas_lines() {
        let partition = |partition| proto::Partition {
            partition,
            leader_id: 0,
            replicas: vec![0, 1],
            isr: vec![0],
            ..Default::default()
        };
        let moving = proto::Partition {
            eligible_leader_replicas: vec![1],
            adding_replicas: vec![2, 3],
            removing_replicas: vec![0],
            ..partition(1)
        };
        let topic = proto::Topic {
            name: "first".into(),
            partitions: vec![partition(0), moving],
            replication_factor: 1,
            configs: [("segment.bytes".into(), "1073741824".into())].into(),
            ..Default::default()
        };
        assert_eq!(
            topic_text(&topic),
            "Topic: first\tPartitionCount: 2\tReplicationFactor: 1\tConfigs: segment.bytes=1073741824\n\
             \tTopic: first\tPartition: 0\tLeader: 0\tReplicas: 0,1\tIsr: 0\n\
             \tTopic: first\tPartition: 1\tLeader: 0\tReplicas: 0,1\tIsr: 0\tElr: 1\tAdding: 2,3\tRemoving: 0"
        );
    }
}
