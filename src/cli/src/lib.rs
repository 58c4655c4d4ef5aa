//! The `thalweg` program: every service is a subcommand, and so is every tool of a user.
//!
//! A library, so that a test can build the very same program under a name of its own.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod error;
mod format;
mod lines;
mod output;
#[cfg(test)]
mod reference;
mod settings;
mod time;

use args::{Cli, Command};
use clap::FromArgMatches;
use error::CliError;
use settings::Misread;
use std::process::ExitCode;
use thalweg_runtime::Telemetry;
use thalweg_runtime::telemetry::About;

/// Runs the program with the process's arguments. Exit code 0: done; 1: refused or failed; 2: bad usage.
pub fn main() -> ExitCode {
    let matches = match settings::parse(std::env::args_os()) {
        Ok(matches) => matches,
        Err(Misread::Usage(error)) => error.exit(),
        Err(Misread::File(error)) => return error.report(),
    };
    let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let (Command::Consume(args), Some(("consume", matches))) = (&mut cli.command, matches.subcommand())
        && let Err(error) = args.settle(&args::consume_starts(matches))
    {
        return error.report();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the async runtime cannot start: {error}");
            return ExitCode::from(1);
        }
    };
    // On a worker thread: the main one would have to be woken from another for every message.
    let result = runtime.block_on(async { tokio::spawn(run(cli)).await });
    let result =
        result.unwrap_or_else(|died| Err(CliError::failed(format_args!("the command died: {died}"))));
    // A blocking read of standard input cannot be ended; do not wait for it.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

async fn run(cli: Cli) -> Result<(), CliError> {
    let Cli { global, command } = cli;
    match command {
        Command::Dev(args) => commands::serve::dev(args).await,
        Command::Controller(args) => commands::serve::controller(args).await,
        Command::Broker(mut args) => match args.command.take() {
            Some(command) => commands::broker::run(&global, command).await,
            None => commands::serve::broker(*args).await,
        },
        Command::Coordinator(args) => commands::serve::coordinator(args).await,
        Command::Operator(args) => commands::serve::operator(&global, args).await,
        Command::Topic(args) => commands::topic::run(&global, args).await,
        Command::Produce(args) => traced("thalweg-produce", commands::produce::run(&global, args)).await,
        Command::Consume(args) => traced("thalweg-consume", commands::consume::run(&global, *args)).await,
        Command::Group(args) => commands::group::run(&global, args).await,
        Command::Log(args) => commands::log::run(&global, args),
        Command::Cluster(args) => commands::cluster::run(&global, args).await,
        Command::Health(args) => commands::health::run(&global, args).await,
        Command::Bench(args) => traced("thalweg-bench", commands::bench::run(&global, args)).await,
        Command::Completions(args) => commands::completions::run(&args),
    }
}

/// Runs a command whose spans are exported, if the environment asks for it.
async fn traced(
    service: &'static str,
    command: impl Future<Output = Result<(), CliError>>,
) -> Result<(), CliError> {
    let telemetry = Telemetry::of_command(About { service, version: env!("CARGO_PKG_VERSION") });
    let result = command.await;
    telemetry.end().await;
    result
}
