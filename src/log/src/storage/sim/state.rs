//! The simulated disk: inodes and folders, each in two versions, *written* (what a running process sees) and *stable*
//! (what survives for sure), with the list of changes in between.

use super::fault::FaultPlan;
use super::rng::Rng;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Component, Path};

pub(super) type InodeId = u64;
pub(super) const ROOT: InodeId = 0;

/// A change of a file's bytes that is not stable yet.
#[derive(Debug, Clone)]
pub(super) enum FileChange {
    Write { offset: u64, data: Vec<u8> },
    SetLen(u64),
}

#[derive(Debug, Default)]
pub(super) struct File {
    pub written: Vec<u8>,
    pub stable: Vec<u8>,
    pub pending: Vec<FileChange>,
    /// End of the space reserved by `reserve`; 0 if none.
    pub reserved_end: u64,
    pub handles: usize,
}

impl File {
    /// The disk space that the file takes.
    fn used(&self) -> u64 {
        self.reserved_end.max(self.written.len() as u64)
    }
}

pub(super) type Entries = BTreeMap<String, InodeId>;

#[derive(Debug, Default)]
pub(super) struct Dir {
    pub written: Entries,
    pub stable: Entries,
}

#[derive(Debug)]
pub(super) enum Inode {
    File(File),
    Dir(Dir),
}

/// One change of names. A rename is one of these, so that a crash never loses both names.
#[derive(Debug, Clone)]
pub(super) struct NameChange {
    pub remove: Option<(InodeId, String, InodeId)>,
    pub add: Option<(InodeId, String, InodeId)>,
}

impl NameChange {
    fn dirs(&self) -> impl Iterator<Item = InodeId> + '_ {
        self.remove.iter().chain(self.add.iter()).map(|(dir, ..)| *dir)
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub inodes: HashMap<InodeId, Inode>,
    pub pending_names: Vec<NameChange>,
    pub next_inode: InodeId,
    pub capacity: Option<u64>,
    pub plan: FaultPlan,
    pub rng: Rng,
    /// Counts the power cuts; a handle or lock of an older generation is dead.
    pub generation: u64,
    pub locks: HashSet<InodeId>,
    /// Unreachable inodes are looked for once there are this many.
    pub collect_at: usize,
}

/// Below this many inodes nothing is collected.
const MIN_COLLECT: usize = 256;

/// Writes `data` at `offset`, filling a gap with zeros as a sparse file reads.
pub(super) fn put(content: &mut Vec<u8>, offset: u64, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    let start = offset as usize;
    let end = start + data.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(data);
}

impl State {
    pub fn new(seed: u64) -> Self {
        State {
            inodes: HashMap::from([(ROOT, Inode::Dir(Dir::default()))]),
            pending_names: Vec::new(),
            next_inode: ROOT + 1,
            capacity: None,
            plan: FaultPlan::default(),
            rng: Rng::new(seed),
            generation: 0,
            locks: HashSet::new(),
            collect_at: MIN_COLLECT,
        }
    }

    pub fn insert(&mut self, inode: Inode) -> InodeId {
        let id = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(id, inode);
        id
    }

    pub fn dir(&self, id: InodeId) -> io::Result<&Dir> {
        match self.inodes.get(&id) {
            Some(Inode::Dir(dir)) => Ok(dir),
            Some(Inode::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub fn file_mut(&mut self, id: InodeId) -> io::Result<&mut File> {
        match self.inodes.get_mut(&id) {
            Some(Inode::File(file)) => Ok(file),
            Some(Inode::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub fn is_dir(&self, id: InodeId) -> bool {
        matches!(self.inodes.get(&id), Some(Inode::Dir(_)))
    }

    /// Finds a path's inode.
    pub fn lookup(&self, path: &Path) -> io::Result<InodeId> {
        names(path)?.iter().try_fold(ROOT, |dir, name| {
            self.dir(dir)?.written.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    /// Finds the folder that holds (or would hold) a path's last name.
    pub fn lookup_parent(&self, path: &Path) -> io::Result<(InodeId, String)> {
        let mut names = names(path)?;
        let last = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = names.iter().try_fold(ROOT, |dir, name| {
            let child = self.dir(dir)?.written.get(name).copied();
            child.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        })?;
        self.dir(dir)?;
        Ok((dir, last))
    }

    /// Makes a change of names visible and remembers that it is not stable.
    pub fn change_names(&mut self, change: NameChange) {
        apply_names(&mut self.inodes, &change, |dir| &mut dir.written);
        self.pending_names.push(change);
    }

    /// Makes the names of `dir` stable, and with them every earlier change that they rest on.
    pub fn sync_names(&mut self, dir: InodeId) {
        self.sync_names_of(BTreeSet::from([dir]));
    }

    /// Makes all that lies below `dir` stable: names, bytes and lengths.
    pub fn sync_below(&mut self, dir: InodeId) -> io::Result<()> {
        let (mut dirs, mut files) = (BTreeSet::new(), Vec::new());
        let mut todo = vec![dir];
        while let Some(id) = todo.pop() {
            match &self.inodes[&id] {
                Inode::Dir(dir) if dirs.insert(id) => todo.extend(dir.written.values()),
                Inode::Dir(_) => {}
                Inode::File(_) => files.push(id),
            }
        }
        self.sync_names_of(dirs);
        files.into_iter().try_for_each(|id| self.sync_file(id))
    }

    fn sync_names_of(&mut self, mut touched: BTreeSet<InodeId>) {
        let mut taken = vec![false; self.pending_names.len()];
        for (i, change) in self.pending_names.iter().enumerate().rev() {
            if change.dirs().any(|d| touched.contains(&d)) {
                touched.extend(change.dirs());
                taken[i] = true;
            }
        }
        let mut kept = Vec::new();
        for (change, taken) in std::mem::take(&mut self.pending_names).into_iter().zip(taken) {
            if taken {
                apply_names(&mut self.inodes, &change, |dir| &mut dir.stable);
            } else {
                kept.push(change);
            }
        }
        self.pending_names = kept;
        if self.inodes.len() >= self.collect_at {
            self.collect_garbage();
        }
    }

    /// Makes a file's bytes and length stable.
    pub fn sync_file(&mut self, id: InodeId) -> io::Result<()> {
        let file = self.file_mut(id)?;
        for change in std::mem::take(&mut file.pending) {
            match change {
                FileChange::Write { offset, data } => put(&mut file.stable, offset, &data),
                FileChange::SetLen(len) => file.stable.resize(len as usize, 0),
            }
        }
        // The length counts also where an earlier failed sync lost the bytes: those read as zeros after a crash.
        let len = file.written.len();
        file.stable.resize(len, 0);
        Ok(())
    }

    /// Bytes in use by every file that a name or a handle can reach.
    pub fn used(&self) -> u64 {
        let mut files = BTreeSet::new();
        let mut todo = vec![ROOT];
        while let Some(id) = todo.pop() {
            match &self.inodes[&id] {
                Inode::Dir(dir) => todo.extend(dir.written.values()),
                Inode::File(_) => {
                    files.insert(id);
                }
            }
        }
        let open = self.inodes.iter().filter(|(_, node)| matches!(node, Inode::File(f) if f.handles > 0));
        files.extend(open.map(|(id, _)| *id));
        files.iter().map(|id| if let Inode::File(file) = &self.inodes[id] { file.used() } else { 0 }).sum()
    }

    /// How many bytes the files may still grow.
    pub fn available(&self) -> Option<u64> {
        self.capacity.map(|capacity| capacity.saturating_sub(self.used()))
    }

    /// The largest end that file `id` may grow to. `u64::MAX` without a limit.
    pub fn growth_limit(&mut self, id: InodeId) -> io::Result<u64> {
        let Some(available) = self.available() else { return Ok(u64::MAX) };
        Ok(self.file_mut(id)?.used().saturating_add(available))
    }

    /// Drops the inodes that neither a name (seen or stable), a pending change nor a handle reaches.
    pub fn collect_garbage(&mut self) {
        let mut live = HashSet::new();
        let mut todo = vec![ROOT];
        for change in &self.pending_names {
            todo.extend(change.remove.iter().chain(change.add.iter()).flat_map(|(dir, _, id)| [*dir, *id]));
        }
        todo.extend(self.inodes.iter().filter_map(|(id, node)| match node {
            Inode::File(file) if file.handles > 0 => Some(*id),
            _ => None,
        }));
        while let Some(id) = todo.pop() {
            if live.insert(id)
                && let Some(Inode::Dir(dir)) = self.inodes.get(&id)
            {
                todo.extend(dir.written.values().chain(dir.stable.values()));
            }
        }
        self.inodes.retain(|id, _| live.contains(id));
        // Doubling keeps the cost of looking constant for each inode created.
        self.collect_at = (2 * self.inodes.len()).max(MIN_COLLECT);
    }
}

pub(super) fn apply_names(
    inodes: &mut HashMap<InodeId, Inode>,
    change: &NameChange,
    side: impl Fn(&mut Dir) -> &mut Entries,
) {
    if let Some((dir, name, id)) = &change.remove
        && let Some(Inode::Dir(dir)) = inodes.get_mut(dir)
    {
        let entries = side(dir);
        // After a crash that lost an earlier change the name may belong to another file, which must stay.
        if entries.get(name) == Some(id) {
            entries.remove(name);
        }
    }
    if let Some((dir, name, id)) = &change.add
        && let Some(Inode::Dir(dir)) = inodes.get_mut(dir)
    {
        side(dir).insert(name.clone(), *id);
    }
}

/// A path's names from the root. Relative paths start at the root too: the simulation has no working directory.
pub(super) fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                names.push(name.to_str().ok_or(io::ErrorKind::InvalidInput)?.to_owned());
            }
            Component::ParentDir | Component::Prefix(_) => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    Ok(names)
}
