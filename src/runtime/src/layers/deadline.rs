//! Ends calls at their deadline with DEADLINE_EXCEEDED, in the middle of a response stream too.
//!
//! The transport's own timeout answers CANCELLED and stops watching once a stream has begun; this covers the whole
//! call. It cannot act while the client does not read: then the response waits for the client's window, and the
//! client's own timer ends the call.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::util::Oneshot;
use tower::{Layer, Service, ServiceExt};

use super::status_response;
use crate::methods::{MethodKind, MethodTable};

/// The header in which a client sends its timeout.
const TIMEOUT_HEADER: &str = "grpc-timeout";

/// The most digits a timeout may have (gRPC over HTTP/2).
const MAX_TIMEOUT_DIGITS: usize = 8;

/// Longer timeouts are cut to this: no call lives so long, and the timer stays within its range.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

const EXCEEDED: &str = "the deadline passed before the call was done";

/// When the call must be done. In a request's extensions if the call has a deadline, so that a handler that waits
/// need not wait longer than its client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestDeadline(pub Instant);

impl RequestDeadline {
    /// The time left; zero once it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// Puts [`Deadline`] around a service.
#[derive(Clone, Debug)]
pub struct DeadlineLayer {
    unary_default: Option<Duration>,
    methods: Arc<MethodTable>,
}

impl DeadlineLayer {
    /// Enforces the client's deadline, and `unary_default` for unary calls that come without one.
    pub fn new(unary_default: Option<Duration>, methods: Arc<MethodTable>) -> Self {
        Self { unary_default, methods }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner, config: self.clone() }
    }
}

/// Enforces deadlines on the calls of the service within.
#[derive(Clone, Debug)]
pub struct Deadline<S> {
    inner: S,
    config: DeadlineLayer,
}

// === impl Deadline ===

impl<S> Service<Request<Body>> for Deadline<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Oneshot<S, Request<Body>>, BoxFuture<'static, Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The service within is waited for in the call, so that the wait counts against the deadline.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let timeout = match parse_timeout(request.headers()) {
            Ok(Some(timeout)) => Some(timeout),
            Ok(None) => self
                .config
                .unary_default
                .filter(|_| self.config.methods.kind(request.uri().path()) == MethodKind::Unary),
            Err(MalformedTimeout) => {
                let status = Status::invalid_argument(
                    "malformed grpc-timeout: it takes 1 to 8 digits and one of H, M, S, m, u, n",
                );
                return Either::Right(Box::pin(std::future::ready(Ok(status_response(status)))));
            }
        };
        let inner = self.inner.clone();
        let Some(timeout) = timeout else {
            return Either::Left(inner.oneshot(request));
        };
        let deadline = Instant::now() + timeout.min(MAX_TIMEOUT);
        request.extensions_mut().insert(RequestDeadline(deadline));
        Either::Right(Box::pin(call_until(deadline, inner.oneshot(request))))
    }
}

async fn call_until(
    deadline: Instant,
    call: impl Future<Output = Result<Response<Body>, Infallible>>,
) -> Result<Response<Body>, Infallible> {
    let mut sleep = Box::pin(tokio::time::sleep_until(deadline));
    tokio::select! {
        biased;
        response = call => Ok(response?.map(|body| {
            if body.is_end_stream() { body } else { Body::new(DeadlineBody { inner: Some(body), sleep }) }
        })),
        () = sleep.as_mut() => Ok(status_response(Status::deadline_exceeded(EXCEEDED))),
    }
}

/// A response body that ends with the trailers of DEADLINE_EXCEEDED when its time is over.
struct DeadlineBody {
    /// `None` once the body has ended, one way or the other. Dropping it early frees the handler's stream.
    inner: Option<Body>,
    sleep: Pin<Box<Sleep>>,
}

// === impl DeadlineBody ===

impl HttpBody for DeadlineBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        // First, so that a stream that always has a message ready ends too.
        if this.sleep.as_mut().poll(cx).is_ready() {
            this.inner = None;
            return Poll::Ready(Some(Ok(Frame::trailers(exceeded_trailers()))));
        }
        let polled = Pin::new(inner).poll_frame(cx);
        let ended = match &polled {
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
            Poll::Ready(_) => true,
            Poll::Pending => false,
        };
        if ended {
            this.inner = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        // The deadline may cut the body short, so only the upper end is known.
        let mut hint = SizeHint::new();
        if let Some(upper) = self.inner.as_ref().map_or(Some(0), |body| body.size_hint().upper()) {
            hint.set_upper(upper);
        }
        hint
    }
}

fn exceeded_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(Status::GRPC_STATUS, HeaderValue::from(Code::DeadlineExceeded as i32));
    // Percent-encoded as the header demands: spaces are allowed in it.
    trailers.insert(Status::GRPC_MESSAGE, HeaderValue::from_static(EXCEEDED));
    trailers
}

/// A timeout header that breaks the grammar.
#[derive(Debug, PartialEq, Eq)]
struct MalformedTimeout;

/// Reads `TimeoutValue TimeoutUnit` as gRPC over HTTP/2 writes it.
fn parse_timeout(headers: &HeaderMap) -> Result<Option<Duration>, MalformedTimeout> {
    let mut values = headers.get_all(TIMEOUT_HEADER).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(MalformedTimeout);
    }
    let (unit, digits) = value.as_bytes().split_last().ok_or(MalformedTimeout)?;
    if digits.is_empty() || digits.len() > MAX_TIMEOUT_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return Err(MalformedTimeout);
    }
    // Eight digits fit, and so do they times an hour.
    let number = digits.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Ok(Some(match unit {
        b'H' => Duration::from_secs(number * 60 * 60),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return Err(MalformedTimeout),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(values: &[&str]) -> Result<Option<Duration>, MalformedTimeout> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TIMEOUT_HEADER, HeaderValue::from_str(value).unwrap());
        }
        parse_timeout(&headers)
    }

    #[test]
    fn timeouts() {
        assert_eq!(parse(&[]), Ok(None));
        for (text, wanted) in [
            ("0n", Duration::ZERO),
            ("1H", Duration::from_secs(3_600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("00000006n", Duration::from_nanos(6)),
            ("99999999H", Duration::from_secs(99_999_999 * 3_600)),
        ] {
            assert_eq!(parse(&[text]), Ok(Some(wanted)), "{text}");
        }
        for text in ["", "S", "1", "1 S", "1s", "+1S", "-1S", "1.5S", "123456789S", "1SS", " 1S"] {
            assert_eq!(parse(&[text]), Err(MalformedTimeout), "{text}");
        }
        assert_eq!(parse(&["1S", "2S"]), Err(MalformedTimeout));
    }
}
