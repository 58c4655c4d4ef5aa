//! The controller's gRPC services: decode, call, encode.

pub mod admin;
pub mod internal;
