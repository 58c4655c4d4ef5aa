//! A session: signs of life on a stream, whose end is a sign too. The same for every kind of process.

use crate::kind::{Incarnation, Kind};
use crate::members::Members;
use crate::quorum::no_leader;
use futures_util::stream::{self, BoxStream, StreamExt};
use thalweg_core::{ErrorCode, MetadataVersion};
use thalweg_proto::ApiError;
use thalweg_runtime::Shutdown;
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

/// Answers that may wait to be taken.
const ANSWERS: usize = 4;

/// What the signs of life of one kind say, and how they are answered.
pub trait Signs: Clone + Send + Sync + 'static {
    /// Whose they are.
    type Kind: Kind;
    /// What comes on the stream.
    type Request: Send + 'static;
    /// What goes back.
    type Response: Send + 'static;
    /// One sign of life.
    type Sign: Copy + Send + Sync;
    /// What it is answered with.
    type Answer: Copy + PartialEq + Send + Sync;

    /// Who was heard.
    fn members(&self) -> &Members<Self::Kind>;
    /// The sign in a message.
    fn sign(request: Self::Request) -> Result<Self::Sign, ApiError>;
    /// The message of an answer.
    fn response(answer: Self::Answer) -> Self::Response;
    /// Who gave a sign.
    fn giver(sign: &Self::Sign) -> Incarnation<Self::Kind>;
    /// Whether it says that the process stops.
    fn is_goodbye(sign: &Self::Sign) -> bool;
    /// Whether another answer is to be told when there is one, without a new sign.
    fn is_pending(sign: &Self::Sign, answer: &Self::Answer) -> bool;
    /// Takes a sign and does what it asks for.
    fn take(&self, sign: Self::Sign) -> impl Future<Output = Result<Self::Answer, ApiError>> + Send;
    /// The stream of one that said goodbye has ended, and this was the last that it was told.
    fn farewell(&self, _: Self::Sign, _: Self::Answer) -> impl Future<Output = ()> + Send {
        async {}
    }
    /// What the image says now. An error ends the stream.
    fn answer(&self, sign: &Self::Sign) -> Result<Self::Answer, ApiError>;
}

/// Takes signs from a stream, answers each, and speaks by itself when what it said changes.
pub fn serve<S: Signs>(
    signs: S,
    inbound: Streaming<S::Request>,
    shutdown: Shutdown,
) -> BoxStream<'static, Result<S::Response, Status>> {
    let (answers, receiver) = mpsc::channel(ANSWERS);
    let changed = signs.members().quorum().published().feed.version();
    let session = Session { signs, changed, inbound, answers, giver: None, last: None };
    tokio::spawn(session.run(shutdown));
    stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|answer| (answer, receiver)) })
        .boxed()
}

/// One stream of one process.
struct Session<S: Signs> {
    signs: S,
    changed: watch::Receiver<MetadataVersion>,
    inbound: Streaming<S::Request>,
    answers: mpsc::Sender<Result<S::Response, Status>>,
    /// Whose it is; one stream serves one incarnation.
    giver: Option<Incarnation<S::Kind>>,
    /// The last sign and what was answered.
    last: Option<(S::Sign, S::Answer)>,
}

/// Why a stream ends.
enum Ended {
    /// The other side is gone: its process, or the network to it.
    Broken,
    /// This controller ends it, with a word if there is one.
    Here(Option<ApiError>),
}

impl From<ApiError> for Ended {
    fn from(error: ApiError) -> Ended {
        Ended::Here(Some(error))
    }
}

impl<S: Signs> Session<S> {
    async fn run(mut self, shutdown: Shutdown) {
        let mut status = self.signs.members().quorum().status();
        let ended = loop {
            let pending = self.last.as_ref().is_some_and(|(sign, answer)| S::is_pending(sign, answer));
            let done = tokio::select! {
                next = self.inbound.message() => match next {
                    Ok(Some(request)) => self.take(request).await,
                    Ok(None) | Err(_) => Err(Ended::Broken),
                },
                changed = self.changed.changed(), if pending => match changed {
                    Ok(()) => self.tell_change().await,
                    Err(_) => Err(Ended::Here(None)),
                },
                changed = status.changed() => match changed {
                    Ok(()) if status.borrow_and_update().serving => Ok(()),
                    _ => Err(no_leader().into()),
                },
                () = shutdown.triggered() => {
                    let message = "this controller is stopping; ask another";
                    Err(ApiError::new(ErrorCode::ShuttingDown, message).into())
                }
            };
            if let Err(ended) = done {
                break ended;
            }
        };
        if let Ended::Here(Some(error)) = &ended {
            // What remains to be said; the other side may be gone already.
            let _ = self.answers.send(Err(error.to_status())).await;
        }
        let goodbye = self.last.is_some_and(|(sign, _)| S::is_goodbye(&sign));
        if let Some(giver) = self.giver {
            self.signs.members().closed(giver, matches!(ended, Ended::Broken) && !goodbye);
        }
        if let (true, Ended::Broken, Some((sign, answer))) = (goodbye, ended, self.last) {
            self.signs.farewell(sign, answer).await;
        }
    }

    async fn take(&mut self, request: S::Request) -> Result<(), Ended> {
        let sign = S::sign(request)?;
        let giver = S::giver(&sign);
        if self.giver.is_some_and(|known| known != giver) {
            let message = format!("a session belongs to one incarnation of one {}", S::Kind::NAME);
            return Err(ApiError::invalid(S::Kind::ID_FIELD, message).into());
        }
        let answer = self.signs.take(sign).await?;
        if self.giver.is_none() {
            self.giver = Some(giver);
            self.signs.members().opened(giver);
        }
        self.last = Some((sign, answer));
        self.send(answer).await
    }

    async fn tell_change(&mut self) -> Result<(), Ended> {
        let Some((sign, before)) = self.last else { return Ok(()) };
        let answer = self.signs.answer(&sign)?;
        if answer == before {
            return Ok(());
        }
        self.last = Some((sign, answer));
        self.send(answer).await
    }

    async fn send(&self, answer: S::Answer) -> Result<(), Ended> {
        self.answers.send(Ok(S::response(answer))).await.map_err(|_| Ended::Broken)
    }
}
