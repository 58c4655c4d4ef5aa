//! The client against a small leader in this process, which breaks in every way that a test asks for.

mod cluster;
mod log;
mod producing;
mod reading;
