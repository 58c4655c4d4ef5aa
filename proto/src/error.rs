//! The one place where errors cross the wire: [`ApiError`] to a gRPC status or an `Error` field, and back.
//!
//! A status carries `google.rpc.ErrorInfo` (domain `thalweg`, reason = the [`ErrorCode`]'s name) and, where they apply,
//! `BadRequest`, `RetryInfo`, and our own `NotLeader` or `OffsetRange`.

use crate::v1;
use prost::Message;
use std::fmt;
use std::time::Duration;
use thalweg_core::{BrokerId, ErrorCode, LeaderEpoch, Offset, Retriable};
use tonic::{Code, Status};
use tonic_types::{BadRequest, ErrorInfo, FieldViolation, RetryInfo};

/// The domain in `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "thalweg";
/// Pause that a retriable refusal asks for, unless it says otherwise.
const DEFAULT_RETRY_PAUSE: Duration = Duration::from_millis(100);

const TYPE_ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";
const TYPE_BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";
const TYPE_RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";
const TYPE_NOT_LEADER: &str = "type.googleapis.com/thalweg.v1.NotLeader";
const TYPE_OFFSET_RANGE: &str = "type.googleapis.com/thalweg.v1.OffsetRange";
/// Details that are read from a status; more are ignored.
const MAX_DETAILS: usize = 16;

/// What a caller is told when something is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// What went wrong.
    pub code: ErrorCode,
    /// A sentence for a person: what was refused, and what to do.
    pub message: String,
    /// The field of the request at fault.
    pub field: Option<String>,
    /// What goes with some codes.
    pub detail: Option<Detail>,
}

/// What goes with some codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detail {
    /// With `NotLeader`: who leads.
    NotLeader {
        /// The leader; [`BrokerId::NONE`] if there is none.
        leader: BrokerId,
        /// Where it is, `host:port`; empty if not known.
        endpoint: String,
        /// The epoch of that leader.
        epoch: LeaderEpoch,
    },
    /// With `OffsetOutOfRange`: what may be asked for.
    OffsetRange {
        /// What was asked for.
        requested: Offset,
        /// The first offset there is.
        log_start: Offset,
        /// The end of what may be read.
        high_watermark: Offset,
    },
}

impl ApiError {
    /// An error without field or details.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError { code, message: message.into(), field: None, detail: None }
    }

    /// An illegal value in a field of the request.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError::new(ErrorCode::InvalidRequest, message).with_field(field)
    }

    /// Names the field at fault.
    #[must_use]
    pub fn with_field(mut self, field: impl Into<String>) -> ApiError {
        self.field = Some(field.into());
        self
    }

    /// Adds what goes with the code.
    #[must_use]
    pub fn with_detail(mut self, detail: Detail) -> ApiError {
        self.detail = Some(detail);
        self
    }

    /// Whether the same request may be sent again.
    pub fn retriable(&self) -> Retriable {
        self.code.retriable()
    }

    /// The error as the status of a call.
    pub fn to_status(&self) -> Status {
        let mut details = vec![any(
            TYPE_ERROR_INFO,
            &tonic_types::pb::ErrorInfo::from(ErrorInfo::new(
                self.code.as_str(),
                ERROR_DOMAIN,
                self.field
                    .iter()
                    .map(|field| ("field".to_owned(), field.clone()))
                    .collect::<std::collections::HashMap<_, _>>(),
            )),
        )];
        if let Some(field) = &self.field {
            let violation = FieldViolation::new(field.clone(), self.message.clone());
            details.push(any(
                TYPE_BAD_REQUEST,
                &tonic_types::pb::BadRequest::from(BadRequest::new(vec![violation])),
            ));
        }
        if self.retriable() != Retriable::No {
            let info = RetryInfo::new(Some(DEFAULT_RETRY_PAUSE));
            details.push(any(TYPE_RETRY_INFO, &tonic_types::pb::RetryInfo::from(info)));
        }
        match &self.detail {
            Some(Detail::NotLeader { .. }) => {
                details.extend(self.not_leader().map(|d| any(TYPE_NOT_LEADER, &d)))
            }
            Some(Detail::OffsetRange { .. }) => {
                details.extend(self.offset_range().map(|d| any(TYPE_OFFSET_RANGE, &d)))
            }
            None => {}
        }
        let code = grpc_code(self.code);
        let body = tonic_types::pb::Status { code: code as i32, message: self.message.clone(), details };
        Status::with_details(code, self.message.clone(), body.encode_to_vec().into())
    }

    /// The error as a field of an answer.
    pub fn to_proto(&self) -> v1::Error {
        v1::Error {
            code: self.code as i32,
            message: self.message.clone(),
            field: self.field.clone().unwrap_or_default(),
            retriable: self.retriable() != Retriable::No,
            not_leader: self.not_leader(),
            offset_range: self.offset_range(),
        }
    }

    /// Reads the error that is a field of an answer. A code that this version does not know becomes `Internal`.
    pub fn from_proto(error: &v1::Error) -> ApiError {
        let detail =
            error.not_leader.as_ref().map(Detail::from).or(error.offset_range.as_ref().map(Detail::from));
        ApiError {
            code: ErrorCode::from_number(error.code).unwrap_or(ErrorCode::Internal),
            message: error.message.clone(),
            field: Some(error.field.clone()).filter(|field| !field.is_empty()),
            detail,
        }
    }

    /// Reads the error from a status, if a Thalweg server made it; a transport's failure gives `None`.
    pub fn from_status(status: &Status) -> Option<ApiError> {
        let body = tonic_types::pb::Status::decode(status.details()).ok()?;
        let mut error = ApiError::new(ErrorCode::Internal, status.message());
        let mut ours = false;
        for detail in body.details.iter().take(MAX_DETAILS) {
            match detail.type_url.as_str() {
                TYPE_ERROR_INFO => {
                    let info = tonic_types::pb::ErrorInfo::decode(detail.value.as_slice()).ok()?;
                    if info.domain == ERROR_DOMAIN {
                        ours = true;
                        error.code = ErrorCode::from_name(&info.reason).unwrap_or(ErrorCode::Internal);
                        error.field = info.metadata.get("field").cloned();
                    }
                }
                TYPE_NOT_LEADER => {
                    error.detail =
                        v1::NotLeader::decode(detail.value.as_slice()).ok().as_ref().map(Detail::from);
                }
                TYPE_OFFSET_RANGE => {
                    error.detail =
                        v1::OffsetRange::decode(detail.value.as_slice()).ok().as_ref().map(Detail::from);
                }
                _ => {}
            }
        }
        ours.then_some(error)
    }

    fn not_leader(&self) -> Option<v1::NotLeader> {
        match &self.detail {
            Some(Detail::NotLeader { leader, endpoint, epoch }) => Some(v1::NotLeader {
                leader_id: leader.get(),
                endpoint: endpoint.clone(),
                leader_epoch: epoch.get(),
            }),
            _ => None,
        }
    }

    fn offset_range(&self) -> Option<v1::OffsetRange> {
        match &self.detail {
            Some(Detail::OffsetRange { requested, log_start, high_watermark }) => Some(v1::OffsetRange {
                requested: requested.get(),
                log_start_offset: log_start.get(),
                high_watermark: high_watermark.get(),
            }),
            _ => None,
        }
    }
}

// === impl conversions ===

impl From<&v1::NotLeader> for Detail {
    fn from(detail: &v1::NotLeader) -> Detail {
        Detail::NotLeader {
            leader: BrokerId(detail.leader_id),
            endpoint: detail.endpoint.clone(),
            epoch: LeaderEpoch(detail.leader_epoch),
        }
    }
}

impl From<&v1::OffsetRange> for Detail {
    fn from(detail: &v1::OffsetRange) -> Detail {
        Detail::OffsetRange {
            requested: Offset(detail.requested),
            log_start: Offset(detail.log_start_offset),
            high_watermark: Offset(detail.high_watermark),
        }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Status {
        error.to_status()
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for ApiError {}

/// The gRPC status code of an error, as the protos' comments promise it.
pub fn grpc_code(code: ErrorCode) -> Code {
    use ErrorCode as E;
    match code {
        E::UnknownTopic
        | E::UnknownPartition
        | E::UnknownBroker
        | E::NoReassignmentInProgress
        | E::UnknownMember
        | E::UnknownGroup => Code::NotFound,
        E::TopicAlreadyExists | E::DuplicateBrokerId => Code::AlreadyExists,
        E::InvalidRequest
        | E::InvalidTopicName
        | E::InvalidPartitions
        | E::InvalidReplicationFactor
        | E::InvalidConfig
        | E::CorruptBatch
        | E::MessageTooLarge
        | E::InvalidTimestamp
        | E::UnsupportedCompression => Code::InvalidArgument,
        E::OffsetOutOfRange => Code::OutOfRange,
        E::NotLeader
        | E::FencedLeaderEpoch
        | E::UnknownLeaderEpoch
        | E::OutOfOrderSequence
        | E::DuplicateSequence
        | E::InvalidProducerEpoch
        | E::UnknownProducerId
        | E::StaleBrokerEpoch
        | E::BrokerNotRegistered
        | E::InconsistentClusterId
        | E::PolicyViolation
        | E::InvalidPartitionEpoch
        | E::InvalidVoters
        | E::FencedMemberEpoch
        | E::StaleMemberEpoch
        | E::FencedInstance
        | E::GroupNotEmpty
        | E::NotCoordinator
        | E::StaleCoordinatorEpoch
        | E::IncompatibleFeatureLevel => Code::FailedPrecondition,
        E::LeaderNotAvailable
        | E::OffsetNotAvailable
        | E::NotEnoughReplicas
        | E::NotEnoughReplicasAfterAppend
        | E::StorageError
        | E::ShuttingDown
        | E::ControllerNotAvailable
        | E::CoordinatorNotAvailable => Code::Unavailable,
        E::RequestTimedOut => Code::DeadlineExceeded,
        E::Throttled => Code::ResourceExhausted,
        E::Unsupported => Code::Unimplemented,
        // `Internal`, and whatever a newer core adds before its mapping is written here.
        _ => Code::Internal,
    }
}

fn any(type_url: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any { type_url: type_url.to_owned(), value: message.encode_to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_a_status_and_a_field() {
        for code in ErrorCode::ALL {
            let error = ApiError::new(*code, "no").with_field("topic");
            assert_eq!(ApiError::from_status(&error.to_status()), Some(error.clone()));
            assert_eq!(ApiError::from_proto(&error.to_proto()), error);
            let proto = v1::ErrorCode::try_from(*code as i32).expect("each code stands in the proto");
            assert_eq!(proto.as_str_name(), format!("ERROR_CODE_{}", code.as_str()));
        }
    }

    #[test]
    fn details_survive_a_status() {
        let moved = ApiError::new(ErrorCode::NotLeader, "moved").with_detail(Detail::NotLeader {
            leader: BrokerId(3),
            endpoint: "b3:9292".into(),
            epoch: LeaderEpoch(7),
        });
        assert_eq!(ApiError::from_status(&moved.to_status()), Some(moved));
        let gone = ApiError::new(ErrorCode::OffsetOutOfRange, "gone").with_detail(Detail::OffsetRange {
            requested: Offset(1),
            log_start: Offset(5),
            high_watermark: Offset(9),
        });
        assert_eq!(ApiError::from_status(&gone.to_status()), Some(gone));
    }

    #[test]
    fn a_transport_failure_is_not_ours() {
        assert_eq!(ApiError::from_status(&Status::unavailable("connection refused")), None);
        assert_eq!(
            ApiError::from_status(&Status::with_details(Code::Internal, "x", vec![0xff; 9].into())),
            None
        );
    }

    #[test]
    fn only_internal_maps_to_internal() {
        for code in ErrorCode::ALL {
            assert_eq!(grpc_code(*code) == Code::Internal, *code == ErrorCode::Internal, "{code}");
        }
    }
}
