//! Many members join one group; then one after the other leaves.

use super::super::args::MembersBench;
use super::super::report::{CpuMeter, Report, Samples};
use super::member::{Member, Moved};
use super::{forget, make_topic, stubs, unique};
use crate::args::Global;
use crate::commands::refused;
use crate::error::CliError;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use thalweg_client::{Admin, Client, proto};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long a heartbeat waits for news.
const HOLD: Duration = Duration::from_secs(10);
/// Nothing has moved for so long: it is time to ask whether the group is stable.
const QUIET: Duration = Duration::from_millis(300);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How long the group may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Who has which partition, as the members see it.
#[derive(Default)]
struct Board {
    owners: BTreeMap<i32, usize>,
    joined: usize,
    last_join: Option<Instant>,
    last_move: Option<Instant>,
    /// Partitions that members had to give up.
    given_up: u64,
}

type Shared = Arc<Mutex<Board>>;

fn look<T>(board: &Shared, at: impl FnOnce(&mut Board) -> T) -> T {
    at(&mut board.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Runs the case.
pub async fn run(global: &Global, client: &Client, args: &MembersBench) -> Result<Report, CliError> {
    let topic = make_topic(client, args.partitions, args.replication_factor).await?;
    let report = measure(global, client, args, &topic).await;
    client.admin().delete_topic(&topic).await.map_err(|error| refused(error, Some(&topic)))?;
    report
}

async fn measure(
    global: &Global,
    client: &Client,
    args: &MembersBench,
    topic: &str,
) -> Result<Report, CliError> {
    let admin = client.admin();
    let stubs = stubs(global, args.members).await?;
    let (group, board) = (unique("members"), Shared::default());
    let (leave, leaving) = watch::channel(None::<usize>);
    let partitions = args.partitions.unsigned_abs() as usize;
    let meter = CpuMeter::start(&admin).await?;
    let mut tasks = JoinSet::new();
    for index in 0..args.members {
        let id = format!("member-{index:06}");
        let member =
            Member::new(stubs[index % stubs.len()].clone(), &group, id, topic, Duration::from_secs(45));
        tasks.spawn(live(member, index, Arc::clone(&board), leaving.clone()));
    }
    let begun = Instant::now();
    until_stable(&admin, &group, &board, args.members, partitions, &mut tasks).await?;
    let (last_join, last_move) = look(&board, |board| (board.last_join, board.last_move));
    let last_join = last_join.unwrap_or(begun);
    let stable = last_move.unwrap_or(begun).saturating_duration_since(last_join);

    let (mut samples, mut disturbed) = (Samples::default(), 0);
    for nth in 0..args.leaves.min(args.members.saturating_sub(1)) {
        // One that has something, and not one that was measured: they go from the front.
        let had = look(&board, |board| {
            board.given_up = 0;
            board.owners.iter().filter(|(_, owner)| **owner == nth).map(|(one, _)| *one).collect::<Vec<_>>()
        });
        let begun = Instant::now();
        // Its own task leaves: the partitions are no longer its own from the moment it says so.
        look(&board, |board| board.owners.retain(|_, owner| *owner != nth));
        if leave.send(Some(nth)).is_err() {
            return Err(CliError::failed("every member has ended"));
        }
        until_owned(&board, partitions, &mut tasks).await?;
        let last_move = look(&board, |board| board.last_move).unwrap_or(begun);
        if !had.is_empty() {
            samples.add(last_move.saturating_duration_since(begun));
        }
        tokio::time::sleep(QUIET).await;
        disturbed += look(&board, |board| board.given_up);
    }
    let usage = meter.stop().await?;
    let spread = look(&board, |board| {
        let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
        board.owners.values().for_each(|owner| *counts.entry(*owner).or_default() += 1);
        (counts.values().min().copied().unwrap_or(0), counts.values().max().copied().unwrap_or(0))
    });
    // The others leave too, so that the group can be forgotten.
    if leave.send(Some(usize::MAX)).is_ok() {
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|died| CliError::failed(format_args!("a member died: {died}")))??;
        }
    }
    forget(&admin, &[group]).await?;
    Ok(Report {
        case: "members",
        records: 0,
        bytes: 0,
        usage,
        latency: samples.percentiles(),
        end_to_end: None,
        more: vec![
            ("members", args.members as f64),
            ("partitions", f64::from(args.partitions)),
            ("all_joined_after_ms", last_join.saturating_duration_since(begun).as_secs_f64() * 1e3),
            ("stable_after_last_join_ms", stable.as_secs_f64() * 1e3),
            ("partitions_of_others_that_paused", disturbed as f64),
            ("fewest_partitions_of_a_member_with_any", spread.0 as f64),
            ("most_partitions_of_a_member", spread.1 as f64),
        ],
    })
}

/// A member's life: it follows its assignment until it is told to leave.
async fn live(
    mut member: Member,
    index: usize,
    board: Shared,
    mut leaving: watch::Receiver<Option<usize>>,
) -> Result<(), CliError> {
    let note = |moved: Moved, joins: bool| {
        let now = Instant::now();
        look(&board, |board| {
            if joins {
                board.joined += 1;
                board.last_join = Some(now);
            }
            if !moved.gained.is_empty() || !moved.given_up.is_empty() {
                board.last_move = Some(now);
            }
            board.given_up += moved.given_up.len() as u64;
            for partition in moved.given_up {
                if board.owners.get(&partition) == Some(&index) {
                    board.owners.remove(&partition);
                }
            }
            board.owners.extend(moved.gained.into_iter().map(|partition| (partition, index)));
        });
    };
    note(member.beat(Duration::ZERO).await?, true);
    loop {
        let told = |leaves: &Option<usize>| *leaves == Some(index) || *leaves == Some(usize::MAX);
        // A call that is given up is one that the server need not answer.
        let moved = tokio::select! {
            moved = member.beat(HOLD) => Some(moved?),
            told = leaving.wait_for(told) => { drop(told); None }
        };
        match moved {
            Some(moved) => note(moved, false),
            None => return member.leave().await,
        }
    }
}

async fn until_stable(
    admin: &Admin,
    group: &str,
    board: &Shared,
    members: usize,
    partitions: usize,
    tasks: &mut JoinSet<Result<(), CliError>>,
) -> Result<(), CliError> {
    let begun = Instant::now();
    loop {
        still_alive(tasks)?;
        let quiet = look(board, |board| {
            board.joined == members
                && board.owners.len() == partitions
                && board.last_move.is_none_or(|last| last.elapsed() > QUIET)
        });
        if quiet {
            let found = admin.describe_group(group).await.map_err(|error| refused(error, None))?;
            if found.state() == proto::GroupState::Stable {
                return Ok(());
            }
        }
        if begun.elapsed() > LIMIT {
            let (joined, owned) = look(board, |board| (board.joined, board.owners.len()));
            return Err(CliError::failed(format_args!(
                "not stable within {} s: {joined} of {members} members joined, {owned} of {partitions} partitions have an owner",
                LIMIT.as_secs()
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn until_owned(
    board: &Shared,
    partitions: usize,
    tasks: &mut JoinSet<Result<(), CliError>>,
) -> Result<(), CliError> {
    let begun = Instant::now();
    while look(board, |board| board.owners.len()) < partitions {
        still_alive(tasks)?;
        if begun.elapsed() > LIMIT {
            return Err(CliError::failed("what a member left behind found no owner"));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// A member that fails ends the case.
fn still_alive(tasks: &mut JoinSet<Result<(), CliError>>) -> Result<(), CliError> {
    while let Some(ended) = tasks.try_join_next() {
        ended.map_err(|died| CliError::failed(format_args!("a member died: {died}")))??;
    }
    Ok(())
}
