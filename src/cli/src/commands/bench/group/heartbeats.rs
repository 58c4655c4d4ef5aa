//! Many members of many groups that do nothing but live.

use super::super::args::HeartbeatsBench;
use super::super::report::{CpuMeter, Report, Samples};
use super::member::Member;
use super::servers::Watched;
use super::{forget, make_topic, stubs, unique};
use crate::args::Global;
use crate::commands::refused;
use crate::error::CliError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use thalweg_client::Client;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long after the last join the groups are left to come to rest.
const SETTLE: Duration = Duration::from_secs(5);
/// Members that join at once.
const JOINING: usize = 2_000;

/// What the members share.
struct Shared {
    joined: AtomicU64,
    beats: AtomicU64,
    stop: AtomicBool,
    /// Members join a few at a time: the case is about those that live.
    joining: Semaphore,
    hold: Duration,
}

/// Runs the case.
pub async fn run(global: &Global, client: &Client, args: &HeartbeatsBench) -> Result<Report, CliError> {
    let topic = make_topic(client, args.partitions, args.replication_factor).await?;
    let report = measure(global, client, args, &topic).await;
    client.admin().delete_topic(&topic).await.map_err(|error| refused(error, Some(&topic)))?;
    report
}

async fn measure(
    global: &Global,
    client: &Client,
    args: &HeartbeatsBench,
    topic: &str,
) -> Result<Report, CliError> {
    let admin = client.admin();
    let stubs = stubs(global, args.members).await?;
    let name = unique("heartbeats");
    let groups: Vec<String> = (0..args.groups).map(|index| format!("{name}-{index}")).collect();
    let shared = Arc::new(Shared {
        joined: AtomicU64::new(0),
        beats: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        joining: Semaphore::new(JOINING),
        hold: Duration::from_millis(args.interval_ms),
    });
    let mut tasks = JoinSet::new();
    let begun = Instant::now();
    for index in 0..args.members {
        let group = &groups[index % groups.len()];
        let member = Member::new(
            stubs[index % stubs.len()].clone(),
            group,
            format!("member-{index:06}"),
            topic,
            Duration::from_secs(45),
        );
        tasks.spawn(live(member, Arc::clone(&shared)));
    }
    while shared.joined.load(Ordering::Relaxed) < args.members as u64 {
        still_alive(&mut tasks)?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let joined = begun.elapsed();
    tokio::time::sleep(SETTLE).await;

    let watched = Watched::start(&args.pids)?;
    let meter = CpuMeter::start(&admin).await?;
    let before = shared.beats.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs_f64(args.seconds)).await;
    let beats = shared.beats.load(Ordering::Relaxed) - before;
    let usage = meter.stop().await?;
    let used = watched.map(Watched::stop).transpose()?;
    still_alive(&mut tasks)?;

    shared.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|died| CliError::failed(format_args!("a member died: {died}")))??;
    }
    forget(&admin, &groups).await?;
    let mut more = vec![
        ("members", args.members as f64),
        ("groups", args.groups as f64),
        ("all_joined_after_seconds", joined.as_secs_f64()),
        ("heartbeats_per_second", beats as f64 / usage.seconds),
        ("broker_cores", usage.server / usage.seconds),
    ];
    if let Some(used) = used {
        more.push(("coordinator_cores", used.cores));
        more.push(("coordinator_resident_mb", used.resident_bytes as f64 / 1e6));
    }
    Ok(Report {
        case: "heartbeats",
        records: 0,
        bytes: 0,
        usage,
        latency: Samples::default().percentiles(),
        end_to_end: None,
        more,
    })
}

async fn live(mut member: Member, shared: Arc<Shared>) -> Result<(), CliError> {
    {
        let _turn = shared.joining.acquire().await.map_err(CliError::failed)?;
        member.beat(Duration::ZERO).await?;
    }
    shared.joined.fetch_add(1, Ordering::Relaxed);
    while !shared.stop.load(Ordering::Relaxed) {
        member.beat(shared.hold).await?;
        shared.beats.fetch_add(1, Ordering::Relaxed);
    }
    member.leave().await
}

fn still_alive(tasks: &mut JoinSet<Result<(), CliError>>) -> Result<(), CliError> {
    match tasks.try_join_next() {
        None => Ok(()),
        Some(Ok(Err(error))) => Err(error),
        Some(Ok(Ok(()))) => Err(CliError::failed("a member ended too early")),
        Some(Err(died)) => Err(CliError::failed(format_args!("a member died: {died}"))),
    }
}
