//! Who may speak to whom: decided by one message before any other.

use std::collections::BTreeSet;
use thalweg_core::metadata::FeatureLevels;
use thalweg_core::{ClusterId, ErrorCode, NodeId};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1::RaftHello;

/// The voters that a controller was told its group is founded with; none for one that joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founding(BTreeSet<NodeId>);

impl Founding {
    /// These voters.
    pub fn new(voters: impl IntoIterator<Item = NodeId>) -> Founding {
        Founding(voters.into_iter().collect())
    }

    /// Them, in the order of their ids.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.0.iter().copied()
    }
}

/// Checks a caller's introduction.
///
/// The founding lists are compared only while one side does not know its cluster yet: later the group's members are what its
/// log says, and lists on command lines may be of different ages.
///
/// `noted_voter`: the caller is a voter that the metadata names, so that it must know its cluster. One that does not has lost
/// its disk, and with it its votes: it could elect a leader that lacks what was acknowledged.
///
/// Errors: `INCONSISTENT_CLUSTER_ID`, `INVALID_VOTERS`.
pub fn check(
    node_id: NodeId,
    cluster_id: Option<&ClusterId>,
    founding: &Founding,
    hello: &RaftHello,
    noted_voter: bool,
) -> Result<(), ApiError> {
    let caller = hello.from;
    if hello.to != node_id.get() {
        let message = format!(
            "controller {caller} means to reach controller {}, but this is controller {node_id}: an address in a voter list \
             is wrong",
            hello.to
        );
        return Err(ApiError::new(ErrorCode::InvalidVoters, message).with_field("to"));
    }
    if caller == 0 || caller == node_id.get() {
        let message = format!("two controllers have the id {caller}");
        return Err(ApiError::new(ErrorCode::InvalidVoters, message).with_field("from"));
    }
    let theirs = Some(hello.cluster_id.as_str()).filter(|id| !id.is_empty());
    match (cluster_id, theirs) {
        (Some(ours), Some(theirs)) if &*ours.0 != theirs => {
            let message = format!(
                "controller {node_id} belongs to cluster {ours}, controller {caller} to cluster {theirs}: one of them has a data \
                 folder or an address of another cluster"
            );
            return Err(ApiError::new(ErrorCode::InconsistentClusterId, message).with_field("cluster_id"));
        }
        (Some(_), Some(_)) => return Ok(()),
        (Some(ours), None) if noted_voter => {
            let message = format!(
                "controller {caller} is a voter of cluster {ours} and does not know it: its volume was lost or is an old copy; remove \
                 this voter and add it again, empty, under a new id"
            );
            return Err(ApiError::new(ErrorCode::InvalidVoters, message).with_field("cluster_id"));
        }
        _ => {}
    }
    let listed = Founding::new(hello.founding_voters.iter().map(|voter| NodeId(voter.node_id)));
    if !listed.0.is_empty() && !founding.0.is_empty() && listed != *founding {
        let show = |list: &Founding| {
            let ids: Vec<String> = list.ids().map(|id| id.to_string()).collect();
            ids.join(", ")
        };
        let message = format!(
            "the voter lists disagree: controller {node_id} was told {}, controller {caller} was told {}; give all founding \
             controllers the same list",
            show(founding),
            show(&listed)
        );
        return Err(ApiError::new(ErrorCode::InvalidVoters, message).with_field("founding_voters"));
    }
    Ok(())
}

/// The feature levels that a caller supports.
///
/// Errors: `INVALID_REQUEST` when they are no range.
pub fn levels(hello: &RaftHello) -> Result<FeatureLevels, ApiError> {
    let said = FeatureLevels::said(hello.min_feature_level, hello.max_feature_level);
    said.ok_or_else(|| ApiError::invalid("min_feature_level", "the feature levels are no range"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_proto::internal::v1::FoundingVoter;

    fn hello(cluster: &str, to: u64, voters: &[u64]) -> RaftHello {
        let voter = |id: &u64| FoundingVoter { node_id: *id, endpoint: format!("c{id}:1") };
        RaftHello {
            cluster_id: cluster.into(),
            from: 2,
            to,
            founding_voters: voters.iter().map(voter).collect(),
            endpoint: "c2:1".into(),
            ..RaftHello::default()
        }
    }

    #[test]
    fn strangers_are_refused_by_name() {
        let founding = Founding::new([1, 2, 3].map(NodeId));
        let ours = ClusterId("ours".into());
        let checked = |cluster: Option<&ClusterId>, hello: RaftHello| {
            check(NodeId(1), cluster, &founding, &hello, false).map_err(|error| error.code)
        };
        let wiped = check(NodeId(1), Some(&ours), &founding, &hello("", 1, &[1, 2, 3]), true);
        assert_eq!(wiped.unwrap_err().code, ErrorCode::InvalidVoters);
        assert!(check(NodeId(1), Some(&ours), &founding, &hello("ours", 1, &[1, 2, 3]), true).is_ok());
        assert_eq!(checked(None, hello("", 1, &[3, 2, 1])), Ok(()));
        assert_eq!(checked(None, hello("", 1, &[])), Ok(()), "one that joins has no list");
        assert_eq!(checked(None, hello("", 1, &[1, 2])), Err(ErrorCode::InvalidVoters));
        assert_eq!(checked(None, hello("x", 1, &[1, 2, 3, 4])), Err(ErrorCode::InvalidVoters));
        assert_eq!(checked(Some(&ours), hello("", 1, &[1, 2])), Err(ErrorCode::InvalidVoters));
        assert_eq!(checked(Some(&ours), hello("ours", 1, &[1, 2])), Ok(()), "lists of different ages");
        assert_eq!(
            checked(Some(&ours), hello("other", 1, &[1, 2, 3])),
            Err(ErrorCode::InconsistentClusterId)
        );
        assert_eq!(checked(None, hello("other", 1, &[1, 2, 3])), Ok(()), "it learns its cluster");
        assert_eq!(checked(None, hello("", 3, &[1, 2, 3])), Err(ErrorCode::InvalidVoters));
        let same_id = RaftHello { from: 1, ..hello("", 1, &[1, 2, 3]) };
        assert_eq!(checked(None, same_id), Err(ErrorCode::InvalidVoters));
    }
}
