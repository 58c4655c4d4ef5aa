//! `thalweg completions`.

use crate::args::{Cli, CompletionsArgs};
use crate::error::CliError;
use clap::CommandFactory;
use std::io::{self, Write};

/// Prints the script of a shell.
pub fn run(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "thalweg", &mut script);
    io::stdout().write_all(&script).map_err(CliError::output)
}
