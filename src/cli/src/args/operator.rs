//! The flags of `thalweg operator`.

use super::ServerArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;
use thalweg_runtime::config::parse_duration;

/// `thalweg operator` runs one, `thalweg operator crds` prints the definitions of its resources.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Examples:
  thalweg operator crds | kubectl apply --server-side -f -
  thalweg operator --namespace messages
  thalweg operator --all-namespaces --metrics-listen 0.0.0.0:9690

SIGTERM and Ctrl-C stop it cleanly: it gives its lease back.")]
pub struct OperatorArgs {
    #[command(subcommand)]
    pub command: Option<OperatorCommand>,
    #[command(flatten)]
    pub server: ServerArgs,
    /// How to reach Kubernetes [default: KUBECONFIG, ~/.kube/config, or else as the pod that it runs in]
    #[arg(long, env = "THALWEG_OPERATOR_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The namespace whose resources it looks after [default: its own]
    #[arg(long, env = "THALWEG_OPERATOR_NAMESPACE", value_name = "NS", conflicts_with = "all_namespaces")]
    pub namespace: Option<String>,
    /// Look after the resources of all namespaces
    #[arg(long, env = "THALWEG_OPERATOR_ALL_NAMESPACES", value_parser = clap::builder::BoolishValueParser::new())]
    pub all_namespaces: bool,
    /// This operator's name, which no other has [default: the machine's name and the process's number]
    #[arg(long, env = "THALWEG_OPERATOR_IDENTITY", value_name = "NAME")]
    pub identity: Option<String>,
    /// Whether a lease says which of several operators acts; without one there must be no other
    #[arg(long, env = "THALWEG_OPERATOR_LEADER_ELECTION", value_name = "true|false", default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_election: bool,
    /// The lease's name
    #[arg(long, env = "THALWEG_OPERATOR_LEASE", value_name = "NAME", default_value = "thalweg-operator")]
    pub lease: String,
    /// The lease's namespace [default: its own]
    #[arg(long, env = "THALWEG_OPERATOR_LEASE_NAMESPACE", value_name = "NS")]
    pub lease_namespace: Option<String>,
    /// How often a resource is looked at of which nothing was heard: so long may a change from outside go unseen
    #[arg(long, env = "THALWEG_OPERATOR_RESYNC", value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub resync: Duration,
    /// How often a step is looked at that is under way
    #[arg(long, env = "THALWEG_OPERATOR_STEP", value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
    pub step: Duration,
    /// How long no partition may move before brokers that came count as having their share
    #[arg(long, env = "THALWEG_OPERATOR_QUIET", value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub quiet: Duration,
}

#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Print the definitions of Topic and Cluster for kubectl: YAML, or JSON with -o json
    Crds,
}
