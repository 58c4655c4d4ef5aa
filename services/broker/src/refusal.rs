//! How the errors of the parts below become the one error that a caller is told.

use thalweg_core::batch::BatchError;
use thalweg_core::{ErrorCode, Offset};
use thalweg_log::{AppendError, OpenError, ReadError, StorageError};
use thalweg_proto::{ApiError, Detail};

/// A batch that was refused; `field` is where it stood in the request.
pub fn batch(error: &BatchError, field: &str) -> ApiError {
    ApiError::new(error.code(), error.to_string()).with_field(field)
}

/// An append that was refused.
pub fn append(error: &AppendError) -> ApiError {
    match error {
        AppendError::Storage(error) => storage(error),
        _ => ApiError::new(error.code(), error.to_string()),
    }
}

/// A disk that refuses.
pub fn storage(error: &StorageError) -> ApiError {
    if error.is_full() {
        return ApiError::new(
            ErrorCode::StorageError,
            format!(
                "the disk is full; nothing was appended, and appends go on once there is space ({error})"
            ),
        );
    }
    ApiError::new(error.code(), error.to_string())
}

/// A log that could not be opened.
pub fn open(error: &OpenError) -> ApiError {
    ApiError::new(error.code(), error.to_string())
}

/// A read that was refused. `high_watermark` is the end of what the caller may ask for.
pub fn read(error: &ReadError, high_watermark: Offset) -> ApiError {
    match error {
        ReadError::OffsetOutOfRange { requested, log_start, .. } => {
            out_of_range(*requested, *log_start, high_watermark)
        }
        ReadError::Storage(error) => storage(error),
        _ => ApiError::new(error.code(), error.to_string()),
    }
}

/// An offset outside of what may be read.
pub fn out_of_range(requested: Offset, log_start: Offset, high_watermark: Offset) -> ApiError {
    ApiError::new(
        ErrorCode::OffsetOutOfRange,
        format!("offset {requested} is out of range: the partition holds {log_start} to {high_watermark}"),
    )
    .with_field("offset")
    .with_detail(Detail::OffsetRange { requested, log_start, high_watermark })
}

/// The broker is stopping.
pub fn shutting_down() -> ApiError {
    ApiError::new(
        ErrorCode::ShuttingDown,
        "the broker is stopping; go to another one, or retry when it is back",
    )
}

/// A fault of this broker, whose details are in its log and not for a caller.
pub fn internal(what: &'static str, cause: impl std::fmt::Display) -> ApiError {
    tracing::error!(%cause, "{what}");
    ApiError::new(ErrorCode::Internal, format!("{what}; the broker's log says more"))
}
