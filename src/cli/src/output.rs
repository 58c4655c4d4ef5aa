//! Printing results.

use crate::error::CliError;
use serde_json::Value;
use std::io::{self, Write};

/// Prints one JSON value on a line of its own.
pub fn print_json(value: &Value) -> Result<(), CliError> {
    print_line(&value.to_string())
}

/// Prints a line.
pub fn print_line(line: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(CliError::output)
}

/// Numbers behind commas, as lists of brokers are printed.
pub fn comma(numbers: &[i32]) -> String {
    numbers.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}
