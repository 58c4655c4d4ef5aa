//! The raft crate logs through slog; this passes it on to tracing.

use slog::{Drain, KV, Key, Level, Logger, Never, OwnedKVList, Record, Serializer};
use std::fmt::{Arguments, Write};
use thalweg_core::NodeId;

const TARGET: &str = "thalweg_raft::core";

/// A logger for the raft crate of this node.
pub(crate) fn logger(node_id: NodeId) -> Logger {
    Logger::root(ToTracing { node_id }, slog::o!())
}

struct ToTracing {
    node_id: NodeId,
}

/// The key-value pairs of a record, written behind its message.
struct Fields(String);

impl Serializer for Fields {
    fn emit_arguments(&mut self, key: Key, value: &Arguments<'_>) -> slog::Result {
        write!(self.0, " {key}={value}").map_err(|_| slog::Error::Other)
    }
}

impl Drain for ToTracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        // The crate's "info" tells every step of every election; the node logs what an operator needs itself.
        macro_rules! pass {
            ($level:expr) => {
                if tracing::enabled!(target: TARGET, $level) {
                    let mut fields = Fields(String::new());
                    let written = record.kv().serialize(record, &mut fields).and_then(|()| values.serialize(record, &mut fields));
                    let cut = written.is_err();
                    tracing::event!(target: TARGET, $level, node = %self.node_id, cut, "{}{}", record.msg(), fields.0);
                }
            };
        }
        match record.level() {
            Level::Critical | Level::Error => pass!(tracing::Level::ERROR),
            Level::Warning => pass!(tracing::Level::WARN),
            Level::Info => pass!(tracing::Level::DEBUG),
            Level::Debug | Level::Trace => pass!(tracing::Level::TRACE),
        }
        Ok(())
    }
}
