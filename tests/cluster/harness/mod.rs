//! What the tests are made of: processes with bounded lives, gRPC callers, inputs and expectations.

mod api;
mod batches;
mod cli;
mod cluster;
mod dev;
mod groups;
mod lines;
mod live;
mod logs;
mod member;
mod namespaces;
mod ports;
mod random;
mod server;
mod steady;

pub use api::{Api, fetch_request, records, refused, within};
pub use batches::{batch, batch_of, reseal, stamped};
pub use cli::{Cli, Output, from_workspace, program_under_test};
pub use cluster::{Cluster, PartitionState, Setup, eventually};
pub use dev::Dev;
pub use groups::{OffsetWatch, assigned, await_group, await_sizes, group_json, owners};
pub use lines::{Consumed, Sent, bag, consumed, dump_format, log_like_files, split_lines};
pub use live::Live;
pub use logs::{dump_verify_all, log_files, partition_dir, segments};
pub use member::Member;
pub use namespaces::Namespaces;
pub use random::Random;
pub use server::Server;
pub use steady::{Acknowledged, Pace, Reading, Steady, reading};
