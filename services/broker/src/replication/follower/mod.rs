//! The follower side.
