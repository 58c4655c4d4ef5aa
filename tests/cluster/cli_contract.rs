//! The command line does what its contract says, to the letter.

mod benching;
mod consuming;
mod describing;
mod environment;
mod looking_into_logs;
mod producing;
mod serving;
mod topics;
mod usage;
