//! The process's log: text or JSON on stderr, its level changeable while it runs.

use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use super::logs::LogLayer;
use crate::supervisor::panic_message;

/// The filter when nothing else is said.
pub const DEFAULT_LOG_FILTER: &str = "info";

/// Libraries that talk too much below `warn`. A filter that names one of them wins over this.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tower=warn,tonic=warn,sled=warn,raft=warn";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: one line each, coloured only on a terminal.
    #[default]
    Text,
    /// For machines: one JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(LogError::Format(text.to_owned())),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// What may be wrong with the log's settings. A retry gives the same.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a format.
    #[error("unknown log format `{0}`: use `text` or `json`")]
    Format(String),
    /// Not a filter.
    #[error(
        "bad log filter `{filter}`: {reason}; write a level (`debug`) or targets with levels (`info,thalweg_raft=debug`)"
    )]
    Filter {
        /// The text as given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The process already has a log.
    #[error("logging is already set up in this process")]
    AlreadySet,
    /// The log this handle belonged to is gone.
    #[error("the log is gone")]
    Gone,
}

/// Changes the log's filter while the process runs. Cheap to clone.
#[derive(Clone)]
pub struct LogHandle {
    reload: reload::Handle<EnvFilter, Registry>,
    current: Arc<Mutex<String>>,
}

impl LogHandle {
    /// Puts `filter` in force; on an error the old one stays.
    pub fn set_filter(&self, filter: &str) -> Result<(), LogError> {
        let parsed = parse_filter(filter)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        self.reload.reload(parsed).map_err(|_| LogError::Gone)?;
        filter.clone_into(&mut current);
        drop(current);
        tracing::info!(filter, "log filter changed");
        Ok(())
    }

    /// The filter in force, as it was given.
    pub fn filter(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Sets up the process's log on stderr, once. `filter` has the form of
/// [`EnvFilter`]'s directives; empty means [`DEFAULT_LOG_FILTER`]. From here on panics are logged too.
pub fn init_logging(format: LogFormat, filter: &str) -> Result<LogHandle, LogError> {
    install(format, filter, None)
}

/// The same, with a layer beside the lines that exports them.
pub(super) fn install(
    format: LogFormat,
    filter: &str,
    exported: Option<LogLayer>,
) -> Result<LogHandle, LogError> {
    let filter = if filter.trim().is_empty() { DEFAULT_LOG_FILTER } else { filter };
    let (reloadable, reload) = reload::Layer::new(parse_filter(filter)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines: Box<dyn Layer<_> + Send + Sync> = match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.with_ansi(false).json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(reloadable)
        .with(lines)
        .with(exported)
        .try_init()
        .map_err(|_| LogError::AlreadySet)?;
    log_panics();
    Ok(LogHandle { reload, current: Arc::new(Mutex::new(filter.to_owned())) })
}

fn parse_filter(filter: &str) -> Result<EnvFilter, LogError> {
    // Later directives replace earlier ones for the same target, so the caller's come last.
    EnvFilter::builder()
        .parse(format!("{QUIET},{filter}"))
        .map_err(|error| LogError::Filter { filter: filter.to_owned(), reason: error.to_string() })
}

/// The standard hook writes plain text between JSON lines; this one writes a log line, with the place.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic_message(panic.payload());
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(message_text = message, place, thread = thread.name(), %backtrace, "panic");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quiet_ones_are_quiet_until_named() {
        let shown = parse_filter("debug").unwrap().to_string();
        assert!(shown.contains("h2=warn") && shown.contains("debug"), "{shown}");
        let shown = parse_filter("info,h2=trace").unwrap().to_string();
        assert!(shown.contains("h2=trace") && !shown.contains("h2=warn"), "{shown}");
    }

    #[test]
    fn bad_settings_say_what_to_write() {
        let error = parse_filter("a=b=c").unwrap_err().to_string();
        assert!(error.contains("a=b=c") && error.contains("debug"), "{error}");
        assert!("xml".parse::<LogFormat>().unwrap_err().to_string().contains("`json`"));
        for format in [LogFormat::Text, LogFormat::Json] {
            assert_eq!(format.to_string().parse::<LogFormat>().unwrap(), format);
        }
    }

    #[test]
    fn the_filter_changes_while_running() {
        // The only test that sets up the process's log.
        let handle = init_logging(LogFormat::Json, "").unwrap();
        assert_eq!(handle.filter(), DEFAULT_LOG_FILTER);
        assert!(!tracing::enabled!(tracing::Level::DEBUG));
        handle.set_filter("debug").unwrap();
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        assert!(handle.set_filter("=,=").is_err());
        assert_eq!(handle.filter(), "debug");
        handle.set_filter("off").unwrap();
        assert!(matches!(init_logging(LogFormat::Text, "info"), Err(LogError::AlreadySet)));
    }
}
