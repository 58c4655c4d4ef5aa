//! How a forwarded call can fail, and whether it may be made again.

use thalweg_client::controllers::was_not_sent;
use thalweg_core::{BrokerId, ErrorCode};
use thalweg_proto::{ApiError, Detail};
use tonic::{Code, Status};

/// Why a forwarded call brought no answer.
#[derive(Debug, Clone)]
pub enum Failure {
    /// Nothing was done there, and another broker may do it: look for the leader again.
    Refused(ApiError),
    /// The leader's word, for the client.
    Told(ApiError),
    /// Nobody knows what was done.
    Lost(ApiError),
}

impl Failure {
    /// Reads a status of the broker `id`.
    pub fn of(id: BrokerId, status: &Status) -> Failure {
        match ApiError::from_status(status) {
            Some(error) if is_elsewhere(&error) => Failure::Refused(error),
            Some(error) if error.code == ErrorCode::ShuttingDown => Failure::Lost(error),
            Some(error) => Failure::Told(error),
            None if was_not_sent(status) => Failure::Refused(unreached(id, status.message())),
            None if status.code() == Code::DeadlineExceeded => Failure::Lost(ApiError::new(
                ErrorCode::RequestTimedOut,
                format!("broker {id}, the leader, gave no answer in time"),
            )),
            None => Failure::Lost(ApiError::new(
                ErrorCode::RequestTimedOut,
                format!("the connection to broker {id}, the leader, broke: {}", status.message()),
            )),
        }
    }

    /// Reads an error that is a field of an answer.
    pub fn of_error(error: ApiError) -> Failure {
        if is_elsewhere(&error) { Failure::Refused(error) } else { Failure::Told(error) }
    }

    /// What a client is told.
    pub fn into_error(self) -> ApiError {
        match self {
            Failure::Refused(error) | Failure::Told(error) | Failure::Lost(error) => error,
        }
    }
}

/// Whether a broker said, before it did anything, that it is not the one, or not yet.
///
/// NOT_LEADER without the leader's name is what is told of a write that was appended before its leader changed.
pub fn is_elsewhere(error: &ApiError) -> bool {
    match error.code {
        ErrorCode::NotLeader => matches!(error.detail, Some(Detail::NotLeader { .. })),
        ErrorCode::LeaderNotAvailable | ErrorCode::OffsetNotAvailable => true,
        // The topic is known here: the other broker has older metadata, or newer.
        ErrorCode::UnknownTopic | ErrorCode::UnknownPartition => true,
        _ => false,
    }
}

/// A leader that cannot be reached.
pub fn unreached(id: BrokerId, why: &str) -> ApiError {
    ApiError::new(
        ErrorCode::LeaderNotAvailable,
        format!("broker {id}, the leader, cannot be reached: {why}; retry"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_core::LeaderEpoch;

    #[test]
    fn only_a_refusal_before_the_append_is_made_elsewhere() {
        let detail = Detail::NotLeader { leader: BrokerId(2), endpoint: "x:1".into(), epoch: LeaderEpoch(3) };
        let before = ApiError::new(ErrorCode::NotLeader, "broker 2 leads").with_detail(detail);
        assert!(matches!(Failure::of(BrokerId(1), &before.to_status()), Failure::Refused(_)));
        let after = ApiError::new(ErrorCode::NotLeader, "the leader changed before the ack");
        assert!(matches!(Failure::of(BrokerId(1), &after.to_status()), Failure::Told(_)));
        let stopping = ApiError::new(ErrorCode::ShuttingDown, "bye");
        assert!(matches!(Failure::of(BrokerId(1), &stopping.to_status()), Failure::Lost(_)));
        assert!(matches!(Failure::of(BrokerId(1), &Status::unavailable("broke")), Failure::Lost(_)));
        let full = ApiError::new(ErrorCode::StorageError, "full");
        assert!(matches!(Failure::of_error(full), Failure::Told(_)));
    }
}
