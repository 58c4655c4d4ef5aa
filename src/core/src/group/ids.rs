//! Names of groups and members, checked.

use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Bytes of a group's, a member's or an instance's id at most.
pub const MAX_ID_LEN: usize = 249;

/// A text cannot be an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} has 1 to {MAX_ID_LEN} bytes without control characters")]
pub struct IdError {
    what: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a text.
            pub fn new(text: &str) -> Result<$name, IdError> {
                let legal = (1..=MAX_ID_LEN).contains(&text.len()) && !text.chars().any(char::is_control);
                if legal { Ok($name(text.into())) } else { Err(IdError { what: $what }) }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text_id!(
    /// A consumer group's name (`group.id`).
    GroupId,
    "a group id"
);
text_id!(
    /// A member's name, drawn by the member or for it; one process at one time.
    MemberId,
    "a member id"
);
text_id!(
    /// The name of a static member (`group.instance.id`): it keeps its partitions through a restart.
    InstanceId,
    "an instance id"
);

/// Counts the assignments of a group as one member has taken them in; fences its commits. 0 joins, -1 leaves, -2 leaves as a
/// static member that comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberEpoch(pub i32);

impl MemberEpoch {
    /// Wants to join.
    pub const JOIN: MemberEpoch = MemberEpoch(0);
    /// Leaves for good.
    pub const LEAVE: MemberEpoch = MemberEpoch(-1);
    /// Leaves, and means to come back under its instance id before its session ends.
    pub const LEAVE_FOR_NOW: MemberEpoch = MemberEpoch(-2);
}

impl fmt::Display for MemberEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_bounded_and_printable() {
        assert_eq!(GroupId::new("readers/1 ü").unwrap().as_str(), "readers/1 ü");
        for bad in ["", "a\nb", &"x".repeat(MAX_ID_LEN + 1)] {
            assert!(GroupId::new(bad).is_err());
        }
    }
}
