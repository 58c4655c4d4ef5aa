//! Consumer groups as pure rules: who gets which partitions.

pub mod assignor;

pub use assignor::{Assignment, Assignor, Subscriber, TopicSpec};
