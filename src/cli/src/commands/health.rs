//! `thalweg health`: asks one server's standard health service, as a container's health check does.

use crate::args::{Global, OutputFormat};
use crate::error::CliError;
use crate::output::{print_json, print_line};
use clap::Args;
use serde_json::json;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use thalweg_runtime::config::HostPort;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  thalweg health
  thalweg health controller-1:9490
  thalweg health --service thalweg.v1.ProducerService

Exit code 0: it serves, 1: it does not, or cannot be reached.")]
pub struct HealthArgs {
    /// The server: a controller, a broker or a coordinator. An address that servers listen on, such as 0.0.0.0, stands for this machine
    #[arg(env = "THALWEG_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:9292")]
    pub endpoint: HostPort,
    /// One gRPC service of it [default: the whole server]
    #[arg(
        long,
        env = "THALWEG_HEALTH_SERVICE",
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub service: String,
    /// Milliseconds that the answer may take
    #[arg(long, env = "THALWEG_TIMEOUT_MS", value_name = "T", default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub timeout_ms: u64,
}

/// Asks, and fails unless the server serves.
pub async fn run(global: &Global, args: HealthArgs) -> Result<(), CliError> {
    let endpoint = reachable(args.endpoint);
    let timeout = Duration::from_millis(args.timeout_ms);
    let unreachable =
        |why: &dyn std::fmt::Display| CliError::failed(format_args!("{endpoint} does not answer: {why}"));
    let ask = async {
        let channel = Endpoint::from_shared(format!("http://{endpoint}"))
            .map_err(|error| CliError::usage(format_args!("{endpoint} is no endpoint: {error}")))?
            .connect()
            .await
            .map_err(|error| unreachable(&root(&error)))?;
        let answer =
            HealthClient::new(channel).check(HealthCheckRequest { service: args.service.clone() }).await;
        match answer {
            Ok(answer) => Ok(answer.into_inner().status()),
            Err(status) if status.code() == Code::NotFound => {
                Err(CliError::failed(format_args!("{endpoint} has no service {}", args.service)))
            }
            Err(status) => Err(unreachable(&status.message())),
        }
    };
    let status = match tokio::time::timeout(timeout, ask).await {
        Ok(status) => status?,
        Err(_) => return Err(unreachable(&format_args!("not within {} ms", args.timeout_ms))),
    };
    let serves = status == ServingStatus::Serving;
    match global.output {
        OutputFormat::Text if serves => print_line("serving")?,
        OutputFormat::Text => {}
        OutputFormat::Json => print_json(&json!({"endpoint": endpoint.to_string(), "serving": serves}))?,
    }
    if serves {
        Ok(())
    } else {
        Err(CliError::failed(format_args!("{endpoint} does not serve at the moment")))
    }
}

/// What lies at the bottom of a failure: the transport's own words say nothing.
fn root(error: &dyn Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// Where a server is reached from its own machine that listens on all addresses.
fn reachable(listen: HostPort) -> HostPort {
    let host = match listen.host.parse() {
        Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => Ipv4Addr::LOCALHOST.to_string(),
        Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => Ipv6Addr::LOCALHOST.to_string(),
        _ => listen.host,
    };
    HostPort { host, port: listen.port }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_all_addresses_are_listened_on_this_machine_is_asked() {
        for (listen, asked) in [
            ("0.0.0.0:9292", "127.0.0.1:9292"),
            ("[::]:9490", "[::1]:9490"),
            ("10.0.0.7:9590", "10.0.0.7:9590"),
            ("broker-1:9292", "broker-1:9292"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), asked);
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_told() {
        let global = Global { bootstrap: Vec::new(), output: OutputFormat::Text };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = HostPort { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
        // It takes the connection, and never answers.
        let args = HealthArgs { endpoint: endpoint.clone(), service: String::new(), timeout_ms: 50 };
        let error = run(&global, args).await.unwrap_err().to_string();
        assert!(error.contains("does not answer: not within 50 ms"), "{error}");
        drop(listener);
        let args = HealthArgs { endpoint, service: String::new(), timeout_ms: 5_000 };
        let error = run(&global, args).await.unwrap_err().to_string();
        assert!(error.contains("does not answer"), "{error}");
    }
}
