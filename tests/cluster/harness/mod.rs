//! What the tests are made of: processes with bounded lives, gRPC callers, inputs and expectations.

mod api;
mod batches;
mod cli;
mod dev;
mod lines;
mod live;
mod logs;

pub use api::{Api, fetch_request, records, refused, within};
pub use batches::{batch, batch_of, reseal, stamped};
pub use cli::{Cli, Output};
pub use dev::Dev;
pub use lines::{Consumed, Sent, bag, consumed, dump_format, log_like_files, split_lines};
pub use live::Live;
pub use logs::{dump_verify_all, log_files, partition_dir};
