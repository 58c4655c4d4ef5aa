//! What a command fails with, and how that is told.

use std::fmt;
use std::io;
use std::process::ExitCode;
use thalweg_core::ErrorCode;

/// A command's failure: a sentence, and often what to do.
#[derive(Debug)]
pub struct CliError {
    message: String,
    hint: Option<String>,
    exit: u8,
    /// Standard output was closed by its reader: not worth a word.
    quiet: bool,
}

impl CliError {
    /// The request was refused or failed: exit code 1.
    pub fn failed(message: impl fmt::Display) -> CliError {
        CliError { message: message.to_string(), hint: None, exit: 1, quiet: false }
    }

    /// The command line asks for something that cannot be: exit code 2.
    pub fn usage(message: impl fmt::Display) -> CliError {
        CliError { message: message.to_string(), hint: None, exit: 2, quiet: false }
    }

    /// Says what to do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> CliError {
        self.hint = Some(hint.into());
        self
    }

    /// A failure to write to standard output. A closed pipe ends the program without a word, as `head` expects.
    pub fn output(error: io::Error) -> CliError {
        let quiet = error.kind() == io::ErrorKind::BrokenPipe;
        CliError { quiet, ..CliError::failed(format_args!("cannot write to standard output: {error}")) }
    }

    /// The hint that a refusal's code suggests.
    pub fn hint_for(code: ErrorCode, topic: Option<&str>) -> Option<String> {
        let topic = topic.unwrap_or("TOPIC");
        match code {
            ErrorCode::UnknownTopic => Some(format!("create it: thalweg topic create {topic}")),
            ErrorCode::UnknownPartition => {
                Some(format!("see which there are: thalweg topic describe {topic}"))
            }
            ErrorCode::TopicAlreadyExists => Some(format!("look at it: thalweg topic describe {topic}")),
            ErrorCode::InvalidConfig => Some("see the keys: thalweg topic describe --all-configs".to_owned()),
            ErrorCode::MessageTooLarge => {
                Some(format!("raise the limit: thalweg topic alter {topic} --config max.message.bytes=BYTES"))
            }
            ErrorCode::StorageError => Some("free space on the broker's disk; its log says more".to_owned()),
            _ => None,
        }
    }

    /// Prints the failure to standard error and gives the exit code.
    pub fn report(self) -> ExitCode {
        if !self.quiet {
            eprintln!("error: {}", self.message);
            if let Some(hint) = self.hint {
                eprintln!("hint: {hint}");
            }
        }
        ExitCode::from(self.exit)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
