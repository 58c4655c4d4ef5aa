//! What every service process shares: telemetry, configuration, the gRPC server bootstrap, tower layers, shutdown.
#![forbid(unsafe_code)]

pub mod clock;
pub mod config;
pub mod process;
pub mod shutdown;
pub mod signals;
pub mod supervisor;
pub mod telemetry;

pub use clock::SystemClock;
pub use shutdown::Shutdown;
pub use signals::shutdown_on_signals;
pub use supervisor::{Supervisor, SupervisorError};
pub use telemetry::{LogFormat, LogHandle, init_logging};
