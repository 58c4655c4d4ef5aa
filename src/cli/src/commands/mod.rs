//! One command a file.

pub mod bench;
pub mod broker;
pub mod cluster;
pub mod completions;
pub mod consume;
pub mod group;
pub mod health;
pub mod log;
pub mod produce;
pub mod serve;
pub mod topic;

use crate::args::Global;
use crate::error::CliError;
use thalweg_client::trace::opentelemetry::Context;
use thalweg_client::trace::{parse, remote};
use thalweg_client::{Client, ClientConfig, ClientError};

/// Connects to the brokers that `--bootstrap` names.
pub async fn connect(global: &Global) -> Result<Client, CliError> {
    let mut config = ClientConfig::new(global.bootstrap.clone());
    config.client_id = "thalweg-cli".to_owned();
    Client::connect(config).await.map_err(|error| match error {
        ClientError::Config(error) => CliError::usage(error),
        error => CliError::failed(error).with_hint(format!(
            "is a broker running on {}? Start one with `thalweg dev`, or name another with --bootstrap",
            global.bootstrap.join(",")
        )),
    })
}

/// A request's failure, with the hint that its code suggests.
pub fn refused(error: ClientError, topic: Option<&str>) -> CliError {
    let hint = error.code().and_then(|code| CliError::hint_for(code, topic));
    let failed = match error {
        ClientError::Config(error) => CliError::usage(error),
        error => CliError::failed(error),
    };
    match hint {
        Some(hint) => failed.with_hint(hint),
        None => failed,
    }
}

/// The span in which this program was started, as `TRACEPARENT` and `TRACESTATE` say. What is malformed is none.
fn callers_span() -> Context {
    let variable = |name| std::env::var(name).unwrap_or_default();
    parse(&variable("TRACEPARENT"), &variable("TRACESTATE")).map_or_else(Context::new, remote)
}
