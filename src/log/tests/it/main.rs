//! The log against an in-memory model, against power cuts, and against the bug catalogue.

mod catalogue;
mod conformance;
mod crash;
mod disk_full;
mod harness;
mod manager;
mod model;
mod reads;
