//! Runs a node on a thread of its own, so that its fsyncs hold up nobody else's reactor.

use crate::error::RaftFailure;
use crate::machine::StateMachine;
use crate::node::RaftNode;
use crate::store::RaftStore;
use crate::transport::Transport;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use tokio::sync::oneshot;

/// A node that runs on its own thread. Dropping this detaches it; the node then still ends when it is shut down.
#[derive(Debug)]
pub struct RaftThread {
    end: oneshot::Receiver<Result<(), RaftFailure>>,
}

impl RaftThread {
    /// Waits for the node's end: `Ok` after a shutdown, otherwise why it failed. The owner must watch this: a node
    /// that has ended takes part in nothing any more.
    pub async fn join(self) -> Result<(), RaftFailure> {
        match self.end.await {
            Ok(end) => end,
            Err(_) => Err(RaftFailure::Panicked { message: "the thread ended without a word".to_owned() }),
        }
    }
}

impl<S: RaftStore, M: StateMachine, T: Transport> RaftNode<S, M, T> {
    /// Runs the node on a new thread with a single-threaded runtime.
    pub fn spawn_thread(self) -> Result<RaftThread, RaftFailure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(RaftFailure::Spawn)?;
        let (tell, end) = oneshot::channel();
        let run = move || {
            // The node is not looked at again after a panic, so it cannot be seen half-changed.
            let result = catch_unwind(AssertUnwindSafe(|| runtime.block_on(self.run())));
            let result =
                result.unwrap_or_else(|panic| Err(RaftFailure::Panicked { message: message_of(&*panic) }));
            if let Err(failure) = &result {
                tracing::error!(%failure, "raft node ended");
            }
            // The owner may be gone, which is its choice.
            let _ = tell.send(result);
        };
        thread::Builder::new().name("raft".to_owned()).spawn(run).map_err(RaftFailure::Spawn)?;
        Ok(RaftThread { end })
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
