//! Controllers as their callers see them: over gRPC, on real ports and real disks.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod alone;
mod coordinators;
mod duties;
mod features;
mod group;
mod members;
mod seams;
mod sessions;
mod strangers;
mod three;
