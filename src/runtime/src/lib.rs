//! What every service process shares: telemetry, configuration, the gRPC server bootstrap, tower layers, shutdown.
