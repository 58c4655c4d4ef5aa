//! Ends uploads that have stopped half-way: a call whose request has begun to come, and of which nothing came for a time.
//!
//! A stream of requests may be silent between two messages for as long as it likes; only within one does the time run. A
//! single request must come to its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tower::BoxError;

use crate::framing::Framing;
use crate::methods::MethodTable;

/// Puts [`StallBody`] around request bodies.
#[derive(Clone, Debug)]
pub struct StallGuard {
    timeout: Option<Duration>,
    methods: Arc<MethodTable>,
}

impl StallGuard {
    /// `timeout` is how long nothing may come; `None` for ever.
    pub fn new(timeout: Option<Duration>, methods: Arc<MethodTable>) -> Self {
        Self { timeout, methods }
    }

    /// Guards the body of a call to `path`.
    pub fn guard<B>(&self, path: &str, body: B) -> StallBody<B> {
        StallBody {
            inner: body,
            timeout: self.timeout,
            single: !self.methods.is_client_streaming(path),
            framing: Framing::new(),
            sleep: None,
            waiting: false,
        }
    }
}

/// A request's body that ends with DEADLINE_EXCEEDED when it has stopped half-way.
pub struct StallBody<B> {
    inner: B,
    timeout: Option<Duration>,
    /// Whether the body is one message and its end.
    single: bool,
    framing: Framing,
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whether `sleep` runs for the piece that is waited for now.
    waiting: bool,
}

// === impl StallBody ===

impl<B> StallBody<B> {
    /// Ready once nothing came for too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(timeout) = self.timeout else { return Poll::Pending };
        if !self.single && self.framing.half_received() == 0 {
            return Poll::Pending;
        }
        let deadline = || Instant::now() + timeout;
        let sleep = match &mut self.sleep {
            Some(sleep) => {
                if !self.waiting {
                    sleep.as_mut().reset(deadline());
                }
                sleep
            }
            none => none.insert(Box::pin(tokio::time::sleep_until(deadline()))),
        };
        self.waiting = true;
        sleep.as_mut().poll(cx)
    }
}

impl<B> HttpBody for StallBody<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
            ready!(this.poll_stalled(cx));
            let seconds = this.timeout.unwrap_or_default().as_secs_f64();
            let status = format!("nothing came of the rest of the request for {seconds} s");
            return Poll::Ready(Some(Err(Status::deadline_exceeded(status).into())));
        };
        this.waiting = false;
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.framing.advance(data);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
