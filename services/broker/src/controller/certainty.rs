//! How far the metadata is, asked anew: what a broker knows of itself is only what it heard last.

use super::link::ControllerLink;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use thalweg_client::controllers::{Controllers, Repeat, timed};
use thalweg_core::{ErrorCode, MetadataVersion};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1 as internal;
use tokio::sync::watch;
use tokio::time::Instant;

/// For one answer.
const WITHIN: Duration = Duration::from_millis(500);
/// For whoever waits: the question that is under way, the next, and a little for the runtime.
const IN_LINE: Duration = Duration::from_millis(1_250);
/// After one that did not come, whoever asks is told so at once for this long: the controllers, and the callers who wait, are
/// spared.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Questions of how far the metadata is. Those that come while one is under way share the next.
///
/// A task of its own asks, and callers only look at what it found: they may be streams that nobody polls any more, and one of
/// those must not keep what the others wait for.
#[derive(Debug, Clone, Default)]
pub(super) struct Questions(Arc<watch::Sender<State>>);

/// Questions are numbered from 1 on.
#[derive(Debug, Default)]
struct State {
    is_asking: bool,
    // The last one that somebody waits for: at most the one after `begun`.
    wanted: u64,
    begun: u64,
    answered: u64,
    // Of the last that was answered.
    version: Option<MetadataVersion>,
    failed: Option<(Instant, ApiError)>,
}

impl ControllerLink {
    /// The version of the metadata at some moment after this was called, as a majority of the controllers has it: not that of one
    /// which leads no more and does not know. `None` when the one that answered is too old to say it.
    ///
    /// Errors: `CONTROLLER_NOT_AVAILABLE`, `REQUEST_TIMED_OUT`, after 1.25 seconds at most.
    pub async fn current_version(&self) -> Result<Option<MetadataVersion>, ApiError> {
        let controllers = Arc::clone(self.controllers());
        self.questions().answer(move || ask(Arc::clone(&controllers))).await
    }
}

impl Questions {
    /// The answer to a question that begins after this was called.
    async fn answer<F>(
        &self,
        question: impl Fn() -> F + Send + 'static,
    ) -> Result<Option<MetadataVersion>, ApiError>
    where
        F: Future<Output = Result<Option<MetadataVersion>, ApiError>> + Send + 'static,
    {
        let mut states = self.0.subscribe();
        let (mut number, mut nobody_asks, mut failed) = (0, false, None);
        self.0.send_if_modified(|state| {
            match &state.failed {
                Some((at, error)) if at.elapsed() < AFTER_FAILURE => failed = Some(error.clone()),
                _ => {
                    number = state.begun + 1;
                    state.wanted = number;
                    nobody_asks = !std::mem::replace(&mut state.is_asking, true);
                }
            }
            false
        });
        if let Some(error) = failed {
            return Err(error);
        }
        if nobody_asks {
            tokio::spawn(self.clone().ask_on(question));
        }
        let answered = states.wait_for(|state| state.answered >= number);
        match tokio::time::timeout(IN_LINE, answered).await {
            Ok(Ok(state)) => match &state.failed {
                Some((_, error)) => Err(error.clone()),
                None => Ok(state.version),
            },
            _ => Err(silent()),
        }
    }

    /// Asks until nobody wants to know any more.
    async fn ask_on<F>(self, question: impl Fn() -> F + Send)
    where
        F: Future<Output = Result<Option<MetadataVersion>, ApiError>> + Send,
    {
        loop {
            let mut is_wanted = false;
            self.0.send_if_modified(|state| {
                is_wanted = state.wanted > state.begun;
                state.begun += u64::from(is_wanted);
                state.is_asking = is_wanted;
                false
            });
            if !is_wanted {
                return;
            }
            let answer = question().await;
            self.0.send_modify(|state| {
                match answer {
                    Ok(version) => (state.version, state.failed) = (version, None),
                    Err(error) => {
                        // Whoever waits for the next one would be told at once.
                        state.begun = state.wanted;
                        state.failed = Some((Instant::now(), error));
                    }
                }
                state.answered = state.begun;
            });
        }
    }
}

async fn ask(controllers: Arc<Controllers>) -> Result<Option<MetadataVersion>, ApiError> {
    let answer = controllers.call(Repeat::Safe, WITHIN, |target| {
        let mut client = Controllers::client(&target.channel);
        let request = timed(internal::DescribeQuorumRequest { current: true }, WITHIN);
        async move { Ok(client.describe_quorum(request).await?.into_inner()) }
    });
    let answer = tokio::time::timeout(WITHIN, answer).await.map_err(|_| silent())??;
    Ok(answer.metadata_version.map(MetadataVersion))
}

fn silent() -> ApiError {
    ApiError::new(ErrorCode::ControllerNotAvailable, "no controller answered in time")
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::pin::pin;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tokio::sync::Semaphore;

    /// Long enough for any machine.
    const LONG: Duration = Duration::from_secs(60);

    /// Answers with how often it was asked, as often as it may.
    struct Asked {
        begun: AtomicU64,
        may: Semaphore,
    }

    impl Asked {
        fn new() -> Arc<Asked> {
            Arc::new(Asked { begun: AtomicU64::new(0), may: Semaphore::new(0) })
        }

        async fn ask(self: Arc<Self>) -> Result<Option<MetadataVersion>, ApiError> {
            let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
            self.may.acquire().await.unwrap().forget();
            Ok(Some(MetadataVersion(number)))
        }
    }

    #[tokio::test]
    async fn a_caller_that_nobody_polls_holds_nobody_up() {
        let (questions, asked) = (Questions::default(), Asked::new());
        let question = || {
            let asked = Arc::clone(&asked);
            questions.answer(move || Arc::clone(&asked).ask())
        };
        let mut idle = pin!(question());
        assert!(idle.as_mut().now_or_never().is_none());
        while asked.begun.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        // They came too late for the first question, and share the second.
        let others = futures_util::future::join_all((0..100).map(|_| question()));
        asked.may.add_permits(2);
        for answer in tokio::time::timeout(LONG, others).await.unwrap() {
            assert_eq!(answer.unwrap(), Some(MetadataVersion(2)));
        }
        assert_eq!(asked.begun.load(Ordering::Relaxed), 2);
        // It finds what is known by now.
        assert_eq!(idle.await.unwrap(), Some(MetadataVersion(2)));
    }

    #[tokio::test]
    async fn a_failure_is_told_to_all_who_wait_and_to_those_who_come_soon_after() {
        let questions = Questions::default();
        let fails = || async { Err(silent()) };
        let (one, other) = tokio::join!(questions.answer(fails), questions.answer(fails));
        assert!(one.is_err() && other.is_err());
        let succeeds = || async { Ok(Some(MetadataVersion(1))) };
        assert!(questions.answer(succeeds).await.is_err(), "within the pause");
    }

    #[tokio::test]
    async fn nobody_waits_for_an_answer_that_does_not_come() {
        let questions = Questions::default();
        let answer = questions.answer(std::future::pending);
        let error = tokio::time::timeout(LONG, answer).await.unwrap().unwrap_err();
        assert_eq!(error.code, ErrorCode::ControllerNotAvailable);
    }
}
