//! Clusters of several controllers and brokers, each a process of its own.

mod bad_input;
mod commands;
mod cut_network;
mod failover;
mod frozen;
mod joining;
mod kills;
mod many;
mod settings;
mod voters;
