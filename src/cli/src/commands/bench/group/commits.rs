//! Commits of one partition each, from many callers, each in a group of its own.

use super::super::args::CommitsBench;
use super::super::report::{CpuMeter, Report};
use super::super::unary::{Call, call_all};
use super::super::{BenchTopic, Until};
use super::{Stub, forget, stubs, unique};
use crate::args::Global;
use crate::error::CliError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use thalweg_client::{Client, proto};
use tonic::Status;

/// Commits that warm up connections, leases and files.
const WARM_UP: Duration = Duration::from_secs(1);

/// Runs the case.
pub async fn run(global: &Global, client: &Client, args: &CommitsBench) -> Result<Report, CliError> {
    if args.callers == 0 || args.callers > 4096 {
        return Err(CliError::usage("--callers must be between 1 and 4096"));
    }
    let topic = BenchTopic::open(client, &args.common).await?;
    let report = measure(global, client, args, &topic).await;
    topic.close().await?;
    report
}

async fn measure(
    global: &Global,
    client: &Client,
    args: &CommitsBench,
    topic: &BenchTopic,
) -> Result<Report, CliError> {
    let admin = client.admin();
    let mut stubs = stubs(global, 1).await?;
    while stubs.len() < args.connections {
        stubs.extend(self::stubs(global, 1).await?);
    }
    let name = unique("commits");
    let groups: Vec<String> =
        (0..args.groups.unwrap_or(args.callers).max(1)).map(|index| format!("{name}-{index}")).collect();
    let made = AtomicUsize::new(0);
    let make = || {
        let index = made.fetch_add(1, Ordering::Relaxed);
        Commit {
            stub: stubs[index % stubs.len()].clone(),
            request: proto::CommitOffsetsRequest {
                group_id: groups[index % groups.len()].clone(),
                offsets: vec![proto::OffsetToCommit {
                    topic: topic.name.clone(),
                    partition: (index % topic.partitions.max(1) as usize) as i32,
                    ..Default::default()
                }],
                ..Default::default()
            },
        }
    };
    call_all(args.callers, Until::Elapsed(WARM_UP), make).await?;
    made.store(0, Ordering::Relaxed);
    let meter = CpuMeter::start(&admin).await?;
    let (commits, samples) = call_all(args.callers, args.common.until()?, make).await?;
    let usage = meter.stop().await?;
    forget(&admin, &groups).await?;
    Ok(Report {
        case: "commits",
        records: commits,
        bytes: 0,
        usage,
        latency: samples.percentiles(),
        end_to_end: None,
        more: vec![
            ("callers", args.callers as f64),
            ("groups", groups.len() as f64),
            ("commits_per_second", commits as f64 / usage.seconds),
        ],
    })
}

/// One caller's commit.
struct Commit {
    stub: Stub,
    request: proto::CommitOffsetsRequest,
}

impl Call for Commit {
    async fn call(&mut self) -> Result<(), Status> {
        if let Some(offset) = self.request.offsets.first_mut() {
            offset.offset += 1;
        }
        let answer = self.stub.commit_offsets(self.request.clone()).await?.into_inner();
        match answer.results.into_iter().find_map(|result| result.error) {
            None => Ok(()),
            Some(error) => Err(Status::failed_precondition(error.message)),
        }
    }
}
