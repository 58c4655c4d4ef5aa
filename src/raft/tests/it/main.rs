//! Tests of the Raft node from outside.
