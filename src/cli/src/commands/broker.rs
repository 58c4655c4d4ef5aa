//! `thalweg broker list|drain|unregister`.

use super::{connect, refused};
use crate::args::{BrokerCommand, Global, OutputFormat};
use crate::error::CliError;
use crate::output::{print_json, print_line, table};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use thalweg_client::{Admin, BrokerReport, proto};
use thalweg_core::ErrorCode;

/// How often a drain is looked at.
const DRAIN_POLL: Duration = Duration::from_millis(500);

/// Runs one of its subcommands.
pub async fn run(global: &Global, command: BrokerCommand) -> Result<(), CliError> {
    let admin = connect(global).await?.admin();
    match command {
        BrokerCommand::List => list(global, &admin).await,
        BrokerCommand::Drain { id, cancel: true, .. } => {
            admin.drain_broker(id, true).await.map_err(not_done)?;
            match global.output {
                OutputFormat::Text => print_line(&format!("broker {id} may have replicas again")),
                OutputFormat::Json => print_json(&json!({"id": id, "draining": false})),
            }
        }
        BrokerCommand::Drain { id, no_wait, timeout_ms, .. } => {
            let wait = if no_wait {
                Duration::ZERO
            } else {
                timeout_ms.map_or(Duration::MAX, Duration::from_millis)
            };
            drain(global, &admin, id, wait).await
        }
        BrokerCommand::Unregister { id } => {
            admin.unregister_broker(id).await.map_err(|error| match error.code() {
                Some(ErrorCode::UnknownBroker) => not_done(error),
                _ => CliError::failed(error)
                    .with_hint(format!("move everything off it (thalweg broker drain {id}), then stop it")),
            })?;
            match global.output {
                OutputFormat::Text => print_line(&format!("broker {id} is forgotten")),
                OutputFormat::Json => print_json(&json!({"id": id, "unregistered": true})),
            }
        }
    }
}

fn not_done(error: thalweg_client::ClientError) -> CliError {
    match error.code() {
        Some(ErrorCode::UnknownBroker) => {
            CliError::failed(error).with_hint("see which there are: thalweg broker list")
        }
        _ => refused(error, None),
    }
}

async fn drain(global: &Global, admin: &Admin, id: i32, wait: Duration) -> Result<(), CliError> {
    let begun = Instant::now();
    let mut left = admin.drain_broker(id, false).await.map_err(not_done)?;
    let tell = |left: u32| match global.output {
        OutputFormat::Text if left > 0 => print_line(&format!("broker {id}: {left} replicas left")),
        _ => Ok(()),
    };
    tell(left)?;
    while left > 0 && begun.elapsed() < wait {
        tokio::time::sleep(DRAIN_POLL.min(wait.saturating_sub(begun.elapsed()))).await;
        let now = replicas_left(admin, id).await?;
        if now != left {
            left = now;
            tell(left)?;
        }
    }
    if global.output == OutputFormat::Json {
        print_json(&json!({"id": id, "draining": true, "replicas_left": left, "safe_to_stop": left == 0}))?;
    } else if left == 0 {
        print_line(&format!("broker {id} holds nothing more: it is safe to stop it"))?;
    }
    if left > 0 && !wait.is_zero() {
        return Err(CliError::failed(format_args!("broker {id} still holds {left} replicas")).with_hint(
            "the drain goes on: see how far it is with `thalweg broker list`, what moves with `thalweg topic reassign`",
        ));
    }
    Ok(())
}

async fn replicas_left(admin: &Admin, id: i32) -> Result<u32, CliError> {
    let cluster = admin.describe_cluster().await.map_err(not_done)?;
    let broker = cluster.brokers.into_iter().find(|broker| broker.id == id);
    match broker {
        None => Ok(0),
        Some(broker) if !broker.draining => {
            Err(CliError::failed(format_args!("the drain of broker {id} was cancelled")))
        }
        Some(broker) => Ok(broker.replica_count),
    }
}

async fn list(global: &Global, admin: &Admin) -> Result<(), CliError> {
    let cluster = admin.describe_cluster().await.map_err(not_done)?;
    let reports = admin.describe_brokers().await.map_err(not_done)?;
    match global.output {
        OutputFormat::Json => print_json(&Value::Array(
            cluster
                .brokers
                .iter()
                .map(|broker| broker_json(broker, described(&reports, broker.id)))
                .collect(),
        )),
        OutputFormat::Text => {
            let mut rows = vec![
                ["ID", "ENDPOINT", "STATE", "RACK", "REPLICAS", "LEADERS", "LOG", "VERSION"]
                    .map(str::to_owned)
                    .to_vec(),
            ];
            for broker in &cluster.brokers {
                let own = described(&reports, broker.id);
                let bytes = own.map(|own| own.log_directories.iter().map(|dir| dir.log_bytes).sum::<u64>());
                rows.push(vec![
                    broker.id.to_string(),
                    broker.endpoint.clone(),
                    state(broker).to_owned(),
                    if broker.rack.is_empty() { "none".to_owned() } else { broker.rack.clone() },
                    broker.replica_count.to_string(),
                    broker.leader_count.to_string(),
                    bytes.map_or("unknown".to_owned(), |bytes| format!("{:.1} MB", bytes as f64 / 1e6)),
                    own.map_or("unknown".to_owned(), |own| own.version.clone()),
                ]);
            }
            table(&rows).iter().try_for_each(|line| print_line(line))
        }
    }
}

fn described(reports: &[BrokerReport], id: i32) -> Option<&proto::DescribeBrokerResponse> {
    reports.iter().find(|report| report.broker.id == id)?.described.as_ref().ok()
}

/// One word for how a broker is.
pub fn state(broker: &proto::Broker) -> &'static str {
    match (broker.fenced, broker.draining, broker.stopping) {
        (true, true, _) => "fenced, draining",
        (true, false, _) => "fenced",
        (false, _, true) => "stopping",
        (false, true, false) if broker.replica_count == 0 => "drained",
        // Some of its replicas have nowhere to go, or nobody to be copied from.
        (false, true, false) if broker.drain_nowhere_to_go + broker.drain_offline > 0 => "draining, stuck",
        (false, true, false) => "draining",
        (false, false, false) => "alive",
    }
}

/// A broker as JSON, with its own view if it could be asked.
fn broker_json(broker: &proto::Broker, own: Option<&proto::DescribeBrokerResponse>) -> Value {
    let mut value = known_json(broker);
    if let Some(own) = own {
        value["version"] = json!(own.version);
        value["uptime_ms"] = json!(own.uptime_ms);
        value["cpu_seconds"] = json!(own.cpu_seconds);
        value["resident_bytes"] = json!(own.resident_bytes);
        let directory = |dir: &proto::LogDirectory| {
            json!({
                "path": dir.path,
                "id": dir.id,
                "partitions": dir.partition_count,
                "log_bytes": dir.log_bytes,
                "available_bytes": dir.available_bytes,
                "failure": dir.failure,
            })
        };
        value["log_directories"] = Value::Array(own.log_directories.iter().map(directory).collect());
    }
    value
}

/// What the cluster knows of a broker, as JSON.
pub fn known_json(broker: &proto::Broker) -> Value {
    json!({
        "id": broker.id,
        "endpoint": broker.endpoint,
        "rack": broker.rack,
        "fenced": broker.fenced,
        "stopping": broker.stopping,
        "draining": broker.draining,
        "epoch": broker.epoch,
        "replicas": broker.replica_count,
        "leaders": broker.leader_count,
        "drain_nowhere_to_go": broker.drain_nowhere_to_go,
        "drain_offline": broker.drain_offline,
    })
}
