//! The gRPC API of Thalweg: generated messages and services, and their conversion to and from the domain.
#![forbid(unsafe_code)]

pub mod codec;
pub mod convert;
pub mod error;
pub mod features;
pub mod scan;

pub use error::{ApiError, Detail};

/// The gRPC header with which a coordinator writes to an internal topic: the epoch of its lease of the partition, in decimal.
pub const LEASE_EPOCH_HEADER: &str = "thalweg-lease-epoch";

/// The public API, package `thalweg.v1`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::unwrap_used,
    reason = "generated code; its comments are the protos'"
)]
pub mod v1 {
    tonic::include_proto!("thalweg.v1");
}

/// What the services say to each other, package `thalweg.internal.v1`.
pub mod internal {
    #[allow(
        missing_docs,
        clippy::all,
        clippy::unwrap_used,
        reason = "generated code; its comments are the protos'"
    )]
    pub mod v1 {
        tonic::include_proto!("thalweg.internal.v1");
    }
}

/// Every proto of this crate as an encoded `FileDescriptorSet`, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("thalweg_descriptor");
