//! What can be seen of a process from outside: metrics, and the port that shows them.
//!
//! ```text
//!   services: Source::collect ──► Registry::gather ─┬─► text (Prometheus)  on the operations port, GET /metrics
//!                                                   └─► OTLP, by the clock  in crate::telemetry
//! ```
//! A metric is described once, as a static [`Family`]; a [`Source`] tells its values when somebody asks. Nothing is counted twice
//! for the sake of metrics: sources read the counters and states that the service keeps anyway.

mod family;
mod histogram;
mod ops;
mod process;
mod registry;
mod text;

pub use family::{Family, Kind, reference};
pub use histogram::{Histogram, HistogramSnapshot, LATENCY_BUCKETS};
pub use ops::{OpsError, OpsPort};
pub use process::{FAMILIES as PROCESS_FAMILIES, ProcessSource};
pub use registry::{Gathered, MAX_SERIES, Point, Registry, Samples, Source, Value};
