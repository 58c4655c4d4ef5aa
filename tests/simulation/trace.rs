//! What the program says while it runs: hashed, so that two runs can be compared, and shown when asked for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The span in which the network runs each of its hosts.
const HOST_SPAN: &str = "node";

/// How much is hashed and shown.
#[derive(Debug, Clone, Copy)]
pub struct Detail {
    /// Hash every segment on the network too.
    pub network: bool,
    /// Print what is at least so grave.
    pub show: LevelFilter,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::new(State::default());
}

#[derive(Default)]
struct State {
    hash: u64,
    events: u64,
    hosts: HashMap<u64, String>,
    entered: Vec<String>,
    text: String,
}

/// The hash of all that was said on this thread so far, and how many events that were.
pub fn digest() -> (u64, u64) {
    STATE.with_borrow(|state| (state.hash, state.events))
}

/// Adds something to the hash that nobody said.
pub fn add(what: &str) {
    STATE.with_borrow_mut(|state| state.hash = fnv(state.hash, what.as_bytes()));
}

fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
    bytes.iter().fold(hash ^ 0xCBF2_9CE4_8422_2325, step)
}

/// Listens to the thread on which it is the default subscriber. Everything is kept on that thread.
pub struct Listener {
    detail: Detail,
    next_span: AtomicU64,
}

impl Listener {
    /// A listener for one simulation.
    pub fn new(detail: Detail) -> Listener {
        Listener { detail, next_span: AtomicU64::new(1) }
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        if metadata.is_span() {
            return metadata.name() == HOST_SPAN;
        }
        match metadata.target() {
            "turmoil" => self.detail.network,
            target if target.starts_with("thalweg") => {
                *metadata.level() <= Level::DEBUG || self.detail.show >= *metadata.level()
            }
            _ => *metadata.level() <= Level::WARN || self.detail.show >= *metadata.level(),
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let needed = if self.detail.network { LevelFilter::TRACE } else { LevelFilter::DEBUG };
        Some(needed.max(self.detail.show))
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.next_span.fetch_add(1, Ordering::Relaxed);
        let mut text = String::new();
        span.record(&mut Writer(&mut text));
        STATE.with_borrow_mut(|state| state.hosts.insert(id, text));
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        STATE.with_borrow_mut(|state| {
            let mut text = std::mem::take(&mut state.text);
            text.clear();
            let metadata = event.metadata();
            let host = state.entered.last().map(String::as_str).unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = write!(text, "{:>5}{host} {}", metadata.level(), metadata.target());
            event.record(&mut Writer(&mut text));
            let now = crate::determinism::now();
            state.hash = fnv(fnv(state.hash, text.as_bytes()), &now.as_nanos().to_le_bytes());
            state.events += 1;
            if self.detail.show >= *metadata.level() {
                eprintln!("{:>9.3} {text}", now.as_secs_f64());
            }
            state.text = text;
        });
    }

    fn enter(&self, span: &Id) {
        STATE.with_borrow_mut(|state| {
            let host = state.hosts.get(&span.into_u64()).cloned().unwrap_or_default();
            state.entered.push(host);
        });
    }

    fn exit(&self, _: &Id) {
        STATE.with_borrow_mut(|state| state.entered.pop());
    }

    fn try_close(&self, span: Id) -> bool {
        STATE.with_borrow_mut(|state| state.hosts.remove(&span.into_u64()));
        true
    }
}

struct Writer<'a>(&'a mut String);

impl Visit for Writer<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = match field.name() {
            "message" | "name" => write!(self.0, " {value}"),
            name => write!(self.0, " {name}={value}"),
        };
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" | "name" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
