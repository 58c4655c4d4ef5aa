//! The streams of the API, the long poll, health and reflection.

mod backpressure;
mod discovery;
mod fetch_stream;
mod idempotence;
mod long_poll;
mod produce_stream;
mod stopping;
mod tail;
