//! The middleware of every server, one a file. [`GrpcServer`](crate::GrpcServer) stacks them, outermost first:
//! stalled uploads, trace (counts and spans), deadline, the limit of calls per connection, panic, routes.
//!
//! Each costs something per call. Only the first costs anything per message of a stream, a look at its length; a stream's
//! answers pass through as they are, unless its client set a deadline, which then has to be watched.

pub mod deadline;
pub mod panic;
pub(crate) mod span;
pub mod stall;
pub mod trace;

use http::Response;
use tonic::Status;
use tonic::body::Body;

/// A response that is only a status.
pub(crate) fn status_response(status: Status) -> Response<Body> {
    let (parts, ()) = status.into_http::<()>().into_parts();
    Response::from_parts(parts, Body::empty())
}
