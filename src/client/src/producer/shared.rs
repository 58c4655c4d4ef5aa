//! What a producer's callers and tasks have in common.

use super::config::ProducerConfig;
use super::inbox::Inbox;
use super::memory::Memory;
use super::topics::Topics;
use super::tracker::Tracker;
use super::window::Identity;
use crate::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) config: ProducerConfig,
    pub(crate) memory: Arc<Memory>,
    pub(crate) tracker: Arc<Tracker>,
    pub(crate) topics: Topics,
    /// The dispatcher's.
    pub(crate) dispatch: Arc<Inbox>,
    /// The producer's id and epoch now; a window moves on to it when it is empty.
    identity: Mutex<Option<Identity>>,
    /// Nothing more is taken; what is there is still sent.
    pub(crate) closing: CancellationToken,
    /// Senders end.
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Nobody looks at single records: neither an interceptor nor a tracer.
    pub(crate) plain: bool,
    /// Set when callers want every sender to look again: memory has run out.
    pressure: AtomicBool,
}

impl Shared {
    pub(crate) fn new(client: Client, config: ProducerConfig, identity: Option<Identity>) -> Shared {
        Shared {
            plain: config.interceptors.is_empty() && !client.tracing().is_on(),
            client,
            memory: Memory::new(config.buffer_memory, config.effective_batch_size()),
            config,
            tracker: Arc::default(),
            topics: Topics::default(),
            dispatch: Arc::default(),
            identity: Mutex::new(identity),
            closing: CancellationToken::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            pressure: AtomicBool::new(false),
        }
    }

    pub(crate) fn identity(&self) -> Option<Identity> {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_identity(&self, identity: Identity) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }

    /// Asks that open batches go out though their linger has not passed, to free memory.
    pub(crate) fn press(&self) {
        if !self.pressure.swap(true, Ordering::AcqRel) {
            self.dispatch.wake();
        }
    }

    pub(crate) fn take_pressure(&self) -> bool {
        self.pressure.swap(false, Ordering::AcqRel)
    }
}
