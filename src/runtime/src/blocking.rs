//! Work that blocks: on the runtime's blocking threads, or in place where a simulation runs everything on one thread.

use std::cell::Cell;
use tokio::task::JoinError;

thread_local! {
    static INLINE: Cell<bool> = const { Cell::new(false) };
}

/// From now on [`run`] works in place when called on this thread. For simulations, whose storage never blocks and whose order of
/// events must not depend on other threads.
pub fn run_inline_on_this_thread() {
    INLINE.set(true);
}

/// Whether [`run`] works in place on this thread; then no part may start threads of its own.
pub fn is_inline() -> bool {
    INLINE.get()
}

/// Runs `work` where it may block. Dropping the future does not stop work that has begun.
///
/// Errors: the work panicked, or the runtime is shutting down.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    if is_inline() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn work_runs_elsewhere_unless_the_thread_says_otherwise() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let here = thread::current().id();
        assert_ne!(runtime.block_on(run(|| thread::current().id())).unwrap(), here);
        run_inline_on_this_thread();
        assert_eq!(runtime.block_on(run(|| thread::current().id())).unwrap(), here);
    }
}
