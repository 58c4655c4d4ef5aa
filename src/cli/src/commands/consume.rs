//! `thalweg consume`: prints records as they come, alone or as a member of a consumer group.

mod alone;
mod member;
mod offsets;
mod printer;

use super::{callers_span, connect, refused};
use crate::args::{ConsumeArgs, Formatter, Global};
use crate::error::CliError;
use printer::Printer;
use std::time::Duration;
use thalweg_client::Client;
use thalweg_client::trace::opentelemetry::trace::FutureExt;
use thalweg_core::group::OFFSETS_TOPIC;
use tokio::signal::unix::{SignalKind, signal};

impl ConsumeArgs {
    /// Lets what stands on the command line win over the environment; two starts contradict each other.
    pub fn settle(&mut self, given: &[&str]) -> Result<(), CliError> {
        if given.len() > 1 {
            return Err(CliError::usage(
                "--from-beginning, --offset and --time contradict each other: give one of them",
            ));
        }
        if let Some(given) = given.first() {
            self.from_beginning &= *given == "from_beginning";
            self.offset = self.offset.filter(|_| *given == "offset");
            self.time = self.time.filter(|_| *given == "time");
        }
        Ok(())
    }
}

/// Runs the command.
pub async fn run(global: &Global, args: ConsumeArgs) -> Result<(), CliError> {
    consume(global, args).with_context(callers_span()).await
}

async fn consume(global: &Global, args: ConsumeArgs) -> Result<(), CliError> {
    let client = connect(global).await?;
    for topic in &args.topics {
        check_topic(&client, topic, &args).await?;
    }
    let mut printer = Printer::new(global, &args);
    if let Some(group) = &args.member.group {
        return member::run(&client, group, &args, printer).await;
    }
    let idle = args.timeout_ms.map(Duration::from_millis);
    let mut reader = alone::reader(&client, &args).await?;
    tokio::select! {
        printed = alone::print(&mut reader, &mut printer, idle) => printed?,
        stopped = stop_asked() => stopped?,
    }
    printer.flush()
}

/// Ctrl-C, or SIGTERM, which is how others end a program.
async fn stop_asked() -> Result<(), CliError> {
    let unwatched = |error| CliError::failed(format_args!("signals cannot be watched: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(unwatched)?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(unwatched),
        _ = terminate.recv() => Ok(()),
    }
}

/// A topic of the system is read only by those who say that they mean it.
async fn check_topic(client: &Client, topic: &str, args: &ConsumeArgs) -> Result<(), CliError> {
    if args.formatter == Some(Formatter::Offsets) && topic != OFFSETS_TOPIC {
        return Err(CliError::usage(format_args!(
            "--formatter offsets decodes {OFFSETS_TOPIC}, not {topic}"
        )));
    }
    let metadata = client.metadata(topic).await.map_err(|error| refused(error, Some(topic)))?;
    if metadata.internal && !args.include_internal {
        return Err(CliError::failed(format_args!(
            "{topic} is a topic of the system: what it holds is no user's records"
        ))
        .with_hint(format!(
            "to look into it: thalweg consume {topic} --include-internal --formatter offsets --from-beginning"
        )));
    }
    Ok(())
}
