//! What every service process shares: telemetry, configuration, the gRPC server bootstrap, tower layers, shutdown.
#![forbid(unsafe_code)]

pub mod blocking;
pub mod clock;
pub mod config;
pub mod dial;
pub mod framing;
pub mod layers;
pub mod methods;
pub mod metrics;
pub mod net;
pub mod observe;
pub mod process;
pub mod server;
pub mod shutdown;
pub mod signals;
pub mod supervisor;
pub mod telemetry;

pub use clock::SystemClock;
pub use dial::Dialer;
pub use layers::deadline::RequestDeadline;
pub use metrics::{CallMetrics, MethodSnapshot};
pub use net::{Connection, Incoming, bind, bind_host};
pub use server::{Drained, GrpcServer, HealthHandle, ServerConfig};
pub use shutdown::Shutdown;
pub use signals::shutdown_on_signals;
pub use supervisor::{Supervisor, SupervisorError};
pub use telemetry::{LogFormat, LogHandle, Telemetry, init_logging};
