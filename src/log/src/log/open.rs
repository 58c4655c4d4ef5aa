//! Opening a log: from what a clean stop left, or by recovery.

use super::recover::{self, Recovered};
use super::{Appender, Log, producers};
use crate::config::LogConfig;
use crate::data_dir;
use crate::error::{OpenError, ReadError, StorageError};
use crate::index::{offset, time};
use crate::leader_epoch::{LeaderEpochFile, LeaderEpochs};
use crate::pool::Memory;
use crate::producer_state::ProducerStates;
use crate::segment::{BatchScan, Home, LOG_EXTENSION, Segment, finish_swaps};
use crate::tail::Tail;
use crate::volume::Volume;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use thalweg_core::{Offset, Timestamp, TopicId};

/// Digits of a base offset in a file's name.
const NAME_DIGITS: usize = 20;

/// What was found and mended when a log was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Whether the log had to be scanned.
    pub recovered: bool,
    /// Segments whose batches were checked.
    pub scanned_segments: usize,
    /// Segments that were removed whole.
    pub removed_segments: usize,
    /// Bytes that were cut away, removed segments included.
    pub cut_bytes: u64,
    /// The first damage found.
    pub reason: Option<String>,
    /// Records that were known to be stable and are gone: `[from, to)`. The disk lost or changed them; after a mere crash
    /// this is `None`.
    pub lost_stable: Option<(Offset, Offset)>,
}

/// Everything that a log is opened with.
pub(crate) struct OpenLog {
    pub home: Home,
    pub topic_id: Option<TopicId>,
    pub volume: Arc<Volume>,
    pub memory: Arc<Memory>,
    pub config: LogConfig,
    /// From the checkpoints; zero for a new log.
    pub log_start: Offset,
    /// From the checkpoints; `None` if they do not know the log.
    pub recovery_point: Option<Offset>,
    /// From the checkpoints.
    pub high_watermark: Offset,
    /// Below this the log is compacted. From the checkpoints; `None` if they do not know of it.
    pub cleaned: Option<Offset>,
    /// Whether the directory was closed cleanly.
    pub clean: bool,
    pub now: Timestamp,
}

impl Log {
    pub(crate) fn open(open: OpenLog) -> Result<Arc<Log>, OpenError> {
        let OpenLog { home, config, now, .. } = &open;
        let mut report = RecoveryReport::default();
        let segments = find_segments(home, config, open.log_start)?;
        let trusted = if open.clean { trusted_end(&segments, open.recovery_point) } else { None };
        let recovery_point = open.recovery_point.unwrap_or(Offset::ZERO);
        let found = match trusted {
            Some(end) => Recovered { segments, end, scanned_from: end, epochs: Vec::new() },
            None => {
                report.recovered = true;
                let may_skip = config.cleanup_compact || open.cleaned.is_some();
                recover::recover(home, segments, recovery_point, may_skip, &mut report)?
            }
        };
        if found.end < recovery_point && open.recovery_point.is_some() {
            report.lost_stable = Some((found.end, recovery_point));
            tracing::error!(
                partition = %home.partition, from = %found.end, to = %recovery_point, reason = report.reason,
                "records that were stable are lost: the disk is damaged"
            );
        }
        let mut epochs = open_epochs(home, &found)?;
        let Recovered { mut segments, mut end, .. } = found;
        if end < open.log_start {
            // What was left of it was deleted before the crash.
            segments = start_at(home, config, &segments, open.log_start)?;
            end = open.log_start;
            epochs.clear()?;
        }
        let log_start = open.log_start.max(segments[0].base());
        epochs.truncate_from_start(log_start)?;
        let producers = open_producers(home, &segments, end, *now)?;
        for segment in &segments[..segments.len() - 1] {
            // Twice: the first call only notes that nobody used it since.
            segment.rest();
            segment.rest();
        }
        let active = Arc::clone(&segments[segments.len() - 1]);
        active.load_index()?;
        // Of many partitions few are written to.
        active.close_file();
        let appender = Appender {
            active,
            epochs,
            fence: None,
            producers,
            unsynced: Vec::new(),
            since_flush: 0,
            dirty_since: None,
            busy: false,
            active_since: *now,
            now: *now,
        };
        let high_watermark = open.high_watermark.clamp(log_start, end);
        Ok(assemble(open, segments, appender, [log_start, end, high_watermark], report))
    }
}

impl Log {
    /// A log in a folder that was just made in a batch, and is empty. It may be used once the batch is synced. Its segment's file
    /// is opened when it is first used, so that thousands of new partitions hold no handles.
    pub(crate) fn create_in_batch(open: OpenLog) -> Result<Arc<Log>, OpenError> {
        let OpenLog { home, config, now, .. } = &open;
        let create = |err| StorageError::io("create a segment in", &home.dir, err);
        let active = Arc::new(Segment::create(home.clone(), Offset::ZERO, config).map_err(create)?);
        active.close_file();
        let appender = Appender {
            active: Arc::clone(&active),
            epochs: LeaderEpochFile::empty(Arc::clone(&home.storage), &home.dir),
            fence: None,
            producers: ProducerStates::new(Offset::ZERO),
            unsynced: Vec::new(),
            since_flush: 0,
            dirty_since: None,
            busy: false,
            active_since: *now,
            now: *now,
        };
        Ok(assemble(open, vec![active], appender, [Offset::ZERO; 3], RecoveryReport::default()))
    }
}

fn assemble(
    open: OpenLog,
    segments: Vec<Arc<Segment>>,
    appender: Appender,
    [log_start, end, high_watermark]: [Offset; 3],
    report: RecoveryReport,
) -> Arc<Log> {
    let OpenLog { home, topic_id, volume, memory, config, cleaned, .. } = open;
    // A log that ends below was cut since, and what it has now was never cleaned.
    let cleaned = cleaned.filter(|cleaned| *cleaned <= end).map_or(super::clean::NEVER_CLEANED, Offset::get);
    let was_compacted = config.cleanup_compact;
    let log = Arc::new_cyclic(|me| Log {
        me: me.clone(),
        home,
        topic_id: topic_id.map_or_else(OnceLock::new, OnceLock::from),
        volume: Arc::clone(&volume),
        tail: Tail::new(Arc::clone(&memory.tails)),
        memory,
        config: RwLock::new(Arc::new(config)),
        segments: RwLock::new(Arc::new(segments)),
        appender: Mutex::new(appender),
        maintenance: Mutex::default(),
        doomed: Mutex::default(),
        flushing: Mutex::default(),
        log_start: AtomicI64::new(log_start.get()),
        log_end: AtomicI64::new(end.get()),
        flushed: AtomicI64::new(end.get()),
        high_watermark: AtomicI64::new(high_watermark.get()),
        epochs_unwritten: AtomicI64::new(i64::MAX),
        generation: AtomicU64::new(0),
        cleaned: AtomicI64::new(cleaned),
        cleaning: AtomicBool::new(false),
        uncleanable: AtomicBool::new(false),
        was_compacted: AtomicBool::new(was_compacted),
        hints: Mutex::default(),
        queued: AtomicBool::new(false),
        life: AtomicU8::new(super::Life::Open as u8),
        listener: RwLock::new(None),
        report,
    });
    volume.register(&log);
    log
}

/// Opens the folder's segments, oldest first and at least one, and removes what a crash left over.
fn find_segments(home: &Home, config: &LogConfig, log_start: Offset) -> Result<Vec<Arc<Segment>>, OpenError> {
    let (storage, dir) = (&*home.storage, &home.dir);
    let io = |action, err| StorageError::io(action, dir, err);
    data_dir::remove_leftovers(storage, dir)?;
    finish_swaps(home)?;
    let mut bases = BTreeSet::new();
    let mut indexes = Vec::new();
    for entry in storage.list(dir).map_err(|err| io("list", err))? {
        match parse_name(&entry.name) {
            Some((base, LOG_EXTENSION)) => drop(bases.insert(base)),
            Some((base, offset::EXTENSION | time::EXTENSION)) => indexes.push((base, entry.name)),
            _ => {}
        }
    }
    for (_, name) in indexes.iter().filter(|(base, _)| !bases.contains(base)) {
        storage.remove_file(&dir.join(name)).map_err(|err| io("clean", err))?;
    }
    let mut segments = Vec::new();
    for base in bases {
        let segment =
            Segment::open(home.clone(), base, config).map_err(|err| io("open a segment in", err))?;
        segments.push(Arc::new(segment));
    }
    // A crash or a full disk during a roll leaves an empty one. It is not needed, and might lie inside another's range.
    while let [.., last] = &segments[..]
        && last.size() == 0
        && segments.len() > 1
    {
        last.remove()?;
        segments.pop();
    }
    // Segments that were on their way out.
    while let [first, second, ..] = &segments[..]
        && second.base() <= log_start
    {
        first.remove()?;
        segments.remove(0);
    }
    if segments.is_empty() {
        return start_at(home, config, &[], log_start);
    }
    Ok(segments)
}

/// The base offset and the extension of a segment's file.
fn parse_name(name: &str) -> Option<(Offset, &str)> {
    let (digits, extension) = name.split_once('.')?;
    let plain = digits.len() == NAME_DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    Some((Offset(plain.then(|| digits.parse().ok())??), extension))
}

/// Replaces all segments by an empty one.
fn start_at(
    home: &Home,
    config: &LogConfig,
    old: &[Arc<Segment>],
    base: Offset,
) -> Result<Vec<Arc<Segment>>, OpenError> {
    for segment in old.iter().rev() {
        segment.remove()?;
    }
    let dir = &home.dir;
    let new = Segment::create(home.clone(), base, config)
        .map_err(|err| StorageError::io("create a segment in", dir, err))?;
    home.storage.sync_dir(dir).map_err(|err| StorageError::io("sync", dir, err))?;
    Ok(vec![Arc::new(new)])
}

/// The log's end after a clean stop; `None` if anything does not fit together, so that a scan must decide.
fn trusted_end(segments: &[Arc<Segment>], recovery_point: Option<Offset>) -> Option<Offset> {
    let active = segments.last()?;
    let end = active.load_index().and_then(|()| active.next_offset());
    match end {
        Ok(end) if Some(end) == recovery_point => Some(end),
        Ok(end) => {
            tracing::warn!(path = %active.path().display(), end = %end, "the log does not end where it was closed");
            None
        }
        Err(err) => {
            tracing::warn!(path = %active.path().display(), error = %err, "the log is not as it was closed");
            None
        }
    }
}

/// The leader epochs, corrected by what a scan saw.
fn open_epochs(home: &Home, found: &Recovered) -> Result<LeaderEpochFile, OpenError> {
    let open = LeaderEpochFile::open(Arc::clone(&home.storage), &home.dir);
    let (mut epochs, known) = match open {
        Ok(file) => (file.epochs().clone(), Some(file)),
        Err(err) if err.is_corrupt() => {
            tracing::warn!(partition = %home.partition, error = %err, "rebuilding the leader epochs");
            (epochs_of(&found.segments)?, None)
        }
        Err(err) => return Err(err.into()),
    };
    // The scan saw the truth from there on; below it the file is right.
    epochs.truncate_from_end(found.scanned_from);
    for start in &found.epochs {
        epochs.assign(start.epoch, start.start);
    }
    epochs.truncate_from_end(found.end);
    match known {
        Some(file) if *file.epochs() == epochs => Ok(file),
        _ => Ok(LeaderEpochFile::rebuilt(Arc::clone(&home.storage), &home.dir, epochs)?),
    }
}

/// The leader epochs as the batches tell them.
fn epochs_of(segments: &[Arc<Segment>]) -> Result<LeaderEpochs, ReadError> {
    let mut epochs = LeaderEpochs::default();
    for segment in segments {
        let file = segment.open_file()?;
        let mut scan = BatchScan::headers(&*file, 0, segment.size());
        while let Some(batch) = scan.next().map_err(|err| segment.scan_error(err))? {
            epochs.assign(batch.header.leader_epoch, batch.header.base_offset);
        }
    }
    Ok(epochs)
}

/// The producers: the newest snapshot, and what was appended behind it.
fn open_producers(
    home: &Home,
    segments: &[Arc<Segment>],
    end: Offset,
    now: Timestamp,
) -> Result<ProducerStates, OpenError> {
    let (storage, dir) = (&*home.storage, &home.dir);
    let first = segments[0].base();
    // A snapshot at the first segment's base is still good: it holds the producers whose records are gone already.
    let below = Offset(first.get().saturating_sub(1));
    let mut states = ProducerStates::load(storage, dir, below, end, now)?;
    producers::replay(&mut states, segments, end, now)?;
    producers::recall(&mut states, segments)?;
    let keep: Vec<_> = segments.iter().map(|segment| segment.base()).collect();
    ProducerStates::delete_stray_snapshots(storage, dir, &keep)?;
    Ok(states)
}
