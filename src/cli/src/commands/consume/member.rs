//! Reads as a member of a consumer group. What is printed is committed once it is out, and never before.

use super::printer::{Next, Printer};
use super::stop_asked;
use crate::args::{ConsumeArgs, ResetTo};
use crate::error::CliError;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thalweg_client::{
    Chunk, Client, CommitError, Consumer, ConsumerConfig, ConsumerError, OffsetAndMetadata, OffsetReset,
    Rebalance, RebalanceListener,
};
use thalweg_core::{ErrorCode, LeaderEpoch, TopicPartition};

/// How long the last commit, and then the goodbye, may take.
const GOODBYE: Duration = Duration::from_secs(10);
/// How long joining may take at least before that counts as a failure of a command that is to end by itself.
const JOINING: Duration = Duration::from_secs(20);
/// A member that has had no partition for so long says that it idles.
const IDLE: Duration = Duration::from_secs(2);
/// How often a wait looks up.
const LOOK: Duration = Duration::from_millis(200);

/// Runs until it is asked to stop, has printed enough, or nothing has come for the time that was given.
pub async fn run(client: &Client, group: &str, args: &ConsumeArgs, printer: Printer) -> Result<(), CliError> {
    if args.offset.is_some() || args.time.is_some() || args.partition.is_some() {
        let flag = if args.offset.is_some() {
            "--offset"
        } else if args.time.is_some() {
            "--time"
        } else {
            "--partition"
        };
        return Err(CliError::usage(format_args!(
            "{flag} does not go with --group, which shares out partitions and remembers where it is"
        ))
        .with_hint(format!("to move a group: thalweg group reset-offsets {group}")));
    }
    let shown = Arc::new(Shown { state: Mutex::new(State::new(printer)), failed: AtomicBool::new(false) });
    let config = config(group, args, &shown);
    let refuse = |error: ConsumerError| refused(error, group, args);
    let mut consumer = client.consumer(config).map_err(|error| refuse(error.into()))?;
    match &args.member.pattern {
        Some(pattern) => consumer.subscribe_pattern(pattern),
        None => consumer.subscribe(&args.topics),
    }
    .map_err(refuse)?;
    let mut member =
        Member { consumer, shown, interval: Duration::from_millis(args.member.commit_interval_ms) };
    let printed = tokio::select! {
        printed = member.print(group, args) => printed,
        stopped = stop_asked() => stopped,
    };
    let left = member.leave().await;
    printed.and(left)
}

fn config(group: &str, args: &ConsumeArgs, shown: &Arc<Shown>) -> ConsumerConfig {
    let member = &args.member;
    let mut config = ConsumerConfig::new(group);
    config.member_id = member.member_id.clone();
    config.instance_id = member.instance_id.clone();
    config.assignor = member.assignor.clone();
    config.session_timeout = Duration::from_millis(member.session_timeout_ms);
    config.max_poll_interval = Duration::from_millis(member.max_poll_interval_ms);
    config.offset_reset = match (member.auto_offset_reset, args.from_beginning) {
        (Some(ResetTo::Earliest), _) | (None, true) => OffsetReset::Earliest,
        (Some(ResetTo::Latest), _) | (None, false) => OffsetReset::Latest,
        (Some(ResetTo::None), _) => OffsetReset::None,
    };
    // What is printed is committed here, when it is out.
    config.enable_auto_commit = false;
    config.listener = Some(Arc::clone(shown) as Arc<dyn RebalanceListener>);
    config
}

struct Member {
    consumer: Consumer,
    shown: Arc<Shown>,
    interval: Duration,
}

impl Member {
    async fn print(&mut self, group: &str, args: &ConsumeArgs) -> Result<(), CliError> {
        if self.shown.lock().printer.next() == Next::Stop {
            return Ok(());
        }
        let idle = args.timeout_ms.map(Duration::from_millis);
        let begun = Instant::now();
        let (mut quiet_since, mut committed, mut watch) = (None, Instant::now(), Watch::default());
        loop {
            let ready = tokio::time::timeout(Duration::ZERO, self.consumer.next_chunk()).await;
            let came = match ready {
                Ok(came) => Some(came),
                Err(_) => {
                    // Nothing is waiting: what was printed must be seen before this waits.
                    self.shown.lock().printer.flush()?;
                    tokio::time::timeout(LOOK, self.consumer.next_chunk()).await.ok()
                }
            };
            let now = Instant::now();
            match came {
                Some(Ok(chunk)) => {
                    (quiet_since, watch.warned) = (Some(now), false);
                    if self.shown.print(&chunk)? == Next::Stop {
                        return Ok(());
                    }
                }
                Some(Err(error)) if error.retriable() => {
                    watch.warn(&error);
                    tokio::time::sleep(LOOK).await;
                }
                Some(Err(error)) => return Err(refused(error, group, args)),
                None => {}
            }
            if committed.elapsed() >= self.interval {
                self.commit()?;
                committed = now;
            }
            watch.look(&self.consumer);
            let Some(idle) = idle else { continue };
            if quiet_since.is_none() && self.consumer.member_epoch().is_some() {
                quiet_since = Some(now);
            }
            match quiet_since {
                Some(since) if since.elapsed() >= idle => {
                    return match self.consumer.last_failure() {
                        None => Ok(()),
                        Some(why) => Err(CliError::failed(format_args!("not all was read: {why}"))),
                    };
                }
                None if begun.elapsed() >= idle.max(JOINING) => {
                    return Err(CliError::failed(format_args!(
                        "group {group} could not be joined within {} s",
                        begun.elapsed().as_secs()
                    ))
                    .with_hint("is a coordinator running? See: thalweg cluster describe"));
                }
                _ => {}
            }
        }
    }

    /// Hands in what was printed since the last time, once it is out.
    fn commit(&mut self) -> Result<(), CliError> {
        let offsets = {
            let mut state = self.shown.lock();
            if self.shown.failed.swap(false, Ordering::Relaxed) {
                state.dirty = state.printed.keys().cloned().collect();
            }
            if state.dirty.is_empty() {
                return Ok(());
            }
            state.printer.flush()?;
            state.take_dirty()
        };
        let shown = Arc::clone(&self.shown);
        self.consumer.commit_offsets_async(offsets, move |outcome| {
            if let Err(error) = outcome {
                shown.failed.store(true, Ordering::Relaxed);
                eprintln!("warning: not committed: {error}");
            }
        });
        Ok(())
    }

    /// Commits all that is out, and leaves.
    async fn leave(mut self) -> Result<(), CliError> {
        let flushed = {
            let mut state = self.shown.lock();
            let flushed = state.printer.flush();
            let printed = std::mem::take(&mut state.printed);
            state.dirty.clear();
            flushed.map(|()| printed)
        };
        let committed = match flushed {
            Err(error) => Err(error),
            Ok(printed) if printed.is_empty() => Ok(()),
            Ok(printed) => {
                let commit = self.consumer.commit_offsets(printed);
                match tokio::time::timeout(GOODBYE, commit).await {
                    Ok(Ok(())) => Ok(()),
                    // Others have its partitions already, and go on where it committed last.
                    Ok(Err(CommitError::NotMember)) => {
                        eprintln!(
                            "warning: the last of what was printed is not committed: the group went on without this member"
                        );
                        Ok(())
                    }
                    Ok(Err(error)) => Err(not_committed(&error)),
                    Err(_) => Err(not_committed(&format_args!("no answer within {} s", GOODBYE.as_secs()))),
                }
            }
        };
        let left = tokio::time::timeout(GOODBYE, self.consumer.close()).await;
        let left = match left {
            Ok(closed) => closed.map_err(CliError::failed),
            Err(_) => Err(CliError::failed("the group did not answer the goodbye; its session will end it")),
        };
        committed.and(left)
    }
}

fn not_committed(why: &dyn std::fmt::Display) -> CliError {
    CliError::failed(format_args!("the last of what was printed is not committed: {why}"))
        .with_hint("it will be printed again by whoever reads on")
}

/// What to say about a member that does nothing, once.
#[derive(Default)]
struct Watch {
    warned: bool,
    empty_since: Option<Instant>,
    idles: bool,
}

impl Watch {
    fn warn(&mut self, error: &ConsumerError) {
        if !self.warned {
            eprintln!("warning: {error}; trying again until it works");
            self.warned = true;
        }
    }

    fn look(&mut self, consumer: &Consumer) {
        if !consumer.assignment().is_empty() || consumer.member_epoch().is_none() {
            (self.empty_since, self.idles) = (None, false);
            return;
        }
        let since = *self.empty_since.get_or_insert_with(Instant::now);
        if !self.idles && since.elapsed() >= IDLE {
            eprintln!("idle: no partition is left for this member; it takes over when another one leaves");
            self.idles = true;
        }
    }
}

/// What is printed, shared with the listener, which runs while the next records are waited for.
struct Shown {
    state: Mutex<State>,
    /// A commit failed: what it held is to be committed again.
    failed: AtomicBool,
}

struct State {
    printer: Printer,
    /// Of each partition that the member has: behind the last record that was printed.
    printed: BTreeMap<TopicPartition, OffsetAndMetadata>,
    /// Those of them that were printed on since the last commit.
    dirty: BTreeSet<TopicPartition>,
    scratch: Vec<u8>,
}

impl State {
    fn new(printer: Printer) -> State {
        State { printer, printed: BTreeMap::new(), dirty: BTreeSet::new(), scratch: Vec::new() }
    }

    fn take_dirty(&mut self) -> Vec<(TopicPartition, OffsetAndMetadata)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().filter_map(|at| Some((at.clone(), self.printed.get(&at)?.clone()))).collect()
    }
}

impl Shown {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print(&self, chunk: &Chunk) -> Result<Next, CliError> {
        let mut state = self.lock();
        let State { printer, printed, dirty, scratch } = &mut *state;
        let (upto, next) = printer.chunk(chunk, scratch)?;
        let last = chunk.batches().filter_map(Result::ok).last();
        let whole = upto == chunk.next_offset;
        let epoch = last.filter(|_| whole).map_or(LeaderEpoch::NONE, |batch| batch.header.leader_epoch);
        let at = TopicPartition::new(chunk.topic.0.clone(), chunk.partition);
        printed.insert(
            at.clone(),
            OffsetAndMetadata { offset: upto, leader_epoch: epoch, metadata: String::new() },
        );
        dirty.insert(at);
        Ok(next)
    }
}

impl RebalanceListener for Shown {
    fn on_assigned(&self, rebalance: &mut Rebalance<'_>) {
        note("assigned", rebalance.partitions(), "");
    }

    fn on_revoked(&self, rebalance: &mut Rebalance<'_>) {
        let partitions = rebalance.partitions().to_vec();
        note("revoked", &partitions, "");
        let mut state = self.lock();
        // What nobody could see is not committed: the next owner prints it.
        let out = state.printer.flush().is_ok();
        for at in &partitions {
            state.dirty.remove(at);
            if let Some(offset) = state.printed.remove(at)
                && out
            {
                rebalance.commit(at, offset);
            }
        }
    }

    fn on_lost(&self, partitions: &[TopicPartition]) {
        note("lost", partitions, "; others may read them already, from what was committed last");
        let mut state = self.lock();
        for at in partitions {
            state.dirty.remove(at);
            state.printed.remove(at);
        }
    }
}

fn note(what: &str, partitions: &[TopicPartition], more: &str) {
    if partitions.is_empty() {
        return;
    }
    let names: Vec<String> = partitions.iter().map(ToString::to_string).collect();
    eprintln!("{what}: {}{more}", names.join(", "));
}

/// What a member that cannot go on says.
fn refused(error: ConsumerError, group: &str, args: &ConsumeArgs) -> CliError {
    let topic = args.topics.first().map_or("TOPIC", String::as_str);
    let hint = match (&error, error.code()) {
        (ConsumerError::NoOffset { at }, _) => Some(format!(
            "say where to begin: thalweg group reset-offsets {group} --to-earliest --topic {at} --execute",
            at = at.topic
        )),
        (_, Some(ErrorCode::FencedInstance)) => {
            Some(format!("see who has the instance id: thalweg group describe {group}"))
        }
        (_, Some(code)) => CliError::hint_for(code, Some(topic)),
        _ => None,
    };
    let failed = match error {
        ConsumerError::Client(thalweg_client::ClientError::Config(error)) => CliError::usage(error),
        error => CliError::failed(error),
    };
    match hint {
        Some(hint) => failed.with_hint(hint),
        None => failed,
    }
}
