//! Black-box tests of what services share: a real server over loopback, real signals to a real process.
#![allow(clippy::unwrap_used, reason = "the lint spares test functions, not the helpers they share")]

mod calls;
mod deadline;
mod drain;
mod echo;
mod hostile;
mod limits;
mod ops;
mod signals;
mod stall;
