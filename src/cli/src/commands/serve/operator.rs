//! `thalweg operator`.

use super::Process;
use crate::args::{Global, OperatorArgs, OperatorCommand, OutputFormat};
use crate::error::CliError;
use crate::output::{print_json, print_line};
use serde_json::json;
use std::time::Duration;
use thalweg_operator::{Kubernetes, LeaseConfig, Operator, OperatorConfig, Pace, Scope, crd};

/// Looking more often would only be a load.
const SHORTEST: Duration = Duration::from_millis(10);

/// Runs until SIGTERM or Ctrl-C, or prints what is asked for.
pub async fn run(global: &Global, args: OperatorArgs) -> Result<(), CliError> {
    if let Some(OperatorCommand::Crds) = args.command {
        return crds(global.output);
    }
    let pace = pace(&args)?;
    let process = Process::begin("thalweg-operator", &args.server, "info")?;
    let served = serve(&process, args, pace).await;
    process.end().await;
    served
}

async fn serve(process: &Process, args: OperatorArgs, pace: Pace) -> Result<(), CliError> {
    let kubernetes = Kubernetes::find(args.kubeconfig.as_deref()).await.map_err(|error| {
        CliError::failed(error).with_hint(
            "name a file with --kubeconfig, or run it in a pod with an account that may (see the chart)",
        )
    })?;
    let config = config(args, pace, kubernetes.namespace());
    let identity = config.identity.clone();
    let operator = Operator::new(config, kubernetes);
    operator.observe(&process.metrics);
    // One that waits for the lease is as healthy as one that has it.
    process.serves(identity, &["thalweg.operator"]).await;
    operator.run(process.shutdown.clone()).await.map_err(CliError::failed)
}

fn pace(args: &OperatorArgs) -> Result<Pace, CliError> {
    for (flag, time) in [("--resync", args.resync), ("--step", args.step)] {
        if time < SHORTEST {
            return Err(CliError::usage(format_args!("{flag} {time:?}: choose at least {SHORTEST:?}")));
        }
    }
    Ok(Pace { resync: args.resync, step: args.step, quiet: args.quiet })
}

fn config(args: OperatorArgs, pace: Pace, own_namespace: &str) -> OperatorConfig {
    let identity = args.identity.unwrap_or_else(|| {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        format!("{}-{}", name.trim(), std::process::id())
    });
    let scope = match args.namespace {
        _ if args.all_namespaces => Scope::All,
        Some(namespace) => Scope::Namespace(namespace),
        None => Scope::Namespace(own_namespace.to_owned()),
    };
    let lease_namespace = args.lease_namespace.as_deref().unwrap_or(own_namespace);
    let lease = args.leader_election.then(|| LeaseConfig::new(lease_namespace, &args.lease, &identity));
    OperatorConfig { identity, scope, pace, lease }
}

fn crds(output: OutputFormat) -> Result<(), CliError> {
    let definitions = crd::definitions_json();
    match output {
        OutputFormat::Json => print_json(&json!({"apiVersion": "v1", "kind": "List", "items": definitions})),
        OutputFormat::Text => {
            definitions.iter().try_for_each(|one| print_line(&format!("---\n{}", crd::yaml(one).trim_end())))
        }
    }
}
