//! What a power cut leaves on the simulated disk.

use super::rng::Rng;
use super::state::{Dir, File, FileChange, Inode, State, apply_names, put};
use std::io;

/// Disks write whole sectors; within one, a write is all or nothing.
pub(super) const SECTOR: u64 = 512;

/// How much of one unsynced change reaches the disk.
enum Fate {
    All,
    None,
    /// Each sector by its own coin.
    Torn,
    /// The sectors up to some point.
    Prefix,
}

fn fate(rng: &mut Rng) -> Fate {
    match rng.below(4) {
        0 => Fate::All,
        1 => Fate::None,
        2 => Fate::Torn,
        _ => Fate::Prefix,
    }
}

/// Lays an unsynced write over `content` as far as the dice say.
fn tear(content: &mut Vec<u8>, offset: u64, data: &[u8], rng: &mut Rng) {
    let sectors = (offset + data.len() as u64).div_ceil(SECTOR) - offset / SECTOR;
    let fate = fate(rng);
    let stop = rng.below(sectors.max(1));
    let mut at = 0;
    let mut index = 0;
    while at < data.len() {
        let position = offset + at as u64;
        let piece = ((SECTOR - position % SECTOR) as usize).min(data.len() - at);
        let survives = match fate {
            Fate::All => true,
            Fate::None => false,
            Fate::Torn => rng.coin(),
            Fate::Prefix => index < stop,
        };
        if survives {
            put(content, position, &data[at..at + piece]);
        }
        at += piece;
        index += 1;
    }
}

/// Applies an arbitrary part of the pending changes to the stable content.
fn settle(file: &mut File, rng: &mut Rng) {
    for change in std::mem::take(&mut file.pending) {
        match change {
            FileChange::Write { offset, data } => tear(&mut file.stable, offset, &data, rng),
            FileChange::SetLen(len) => {
                if rng.coin() {
                    file.stable.resize(len as usize, 0);
                }
            }
        }
    }
}

impl State {
    /// A failed `sync_data`: some dirty pages reached the disk, the rest is marked clean and will never be written, just
    /// as Linux does it. A later sync succeeds and saves nothing: whoever retries loses data here.
    pub fn lose_pages(&mut self, id: u64) -> io::Result<()> {
        let mut rng = self.rng.clone();
        settle(self.file_mut(id)?, &mut rng);
        self.rng = rng;
        Ok(())
    }

    /// Cuts the power and turns the machine on again.
    pub fn power_cut(&mut self, strict: bool) {
        let mut rng = self.rng.clone();
        for change in std::mem::take(&mut self.pending_names) {
            if !strict && rng.coin() {
                apply_names(&mut self.inodes, &change, |dir| &mut dir.stable);
            }
        }
        let mut ids: Vec<_> = self.inodes.keys().copied().collect();
        ids.sort_unstable(); // the map's order differs from run to run, the dice must not
        for id in ids {
            match self.inodes.get_mut(&id) {
                Some(Inode::Dir(Dir { written, stable })) => *written = stable.clone(),
                Some(Inode::File(file)) => {
                    if !strict {
                        settle(file, &mut rng);
                    }
                    file.pending.clear();
                    file.written = file.stable.clone();
                    file.reserved_end = 0;
                    file.handles = 0;
                }
                None => {}
            }
        }
        self.rng = rng;
        self.generation += 1;
        self.locks.clear();
        self.plan.power_on();
        self.collect_garbage();
    }
}
