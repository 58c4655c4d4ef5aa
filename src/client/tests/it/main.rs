//! The client against a small leader in this process, which breaks in every way that a test asks for.

#![allow(clippy::unwrap_used, reason = "helpers outside of test functions are tests too")]

mod calling;
mod cluster;
mod consuming;
mod groups;
mod log;
mod producing;
mod reading;
mod wire;
