//! Consumer groups, with the real processes.

mod bad_input;
mod commands;
mod frozen;
mod internal_topic;
mod kills;
mod membership;
mod real_logs;
mod settings;
mod takeover;
