//! SIGTERM and SIGINT become a [`Shutdown`].

use std::io;

use tokio::signal::unix::{SignalKind, signal};

use crate::Shutdown;

/// The exit code of a process that was told to end twice: what a shell gives for a SIGINT (128 + 2).
pub const FORCED_EXIT_CODE: i32 = 130;

/// Triggers `shutdown` at the first SIGTERM or SIGINT. A second one means "do not wait": the process exits at
/// once with [`FORCED_EXIT_CODE`], without drain or flush.
///
/// Must be called inside a tokio runtime. Fails when the handlers cannot be installed.
pub fn shutdown_on_signals(shutdown: &Shutdown) -> io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        let mut asked = false;
        loop {
            let name = tokio::select! {
                _ = term.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if asked {
                tracing::warn!(signal = name, "second signal, exiting without a clean shutdown");
                std::process::exit(FORCED_EXIT_CODE);
            }
            asked = true;
            tracing::info!(signal = name, "signal received, shutting down");
            shutdown.trigger();
        }
    });
    Ok(())
}
