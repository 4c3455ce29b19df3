//! The proof: the same tree, read once more by one thread in its own way. Nothing here calls what
//! the tasks call: another walk, another way to find pieces and words, byte by byte.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use super::progress::Progress;
use super::tasks::Stamp;

/// Differences that are named; the others are counted.
const NAMED: usize = 10;
/// The kernel's clock for files may lag behind by a tick.
const TICK: Duration = Duration::from_millis(50);

/// What the jobs say of one file.
#[derive(Debug)]
pub(super) struct FileClaim {
    pub(super) bytes: u64,
    pub(super) lines: u64,
    pub(super) words: u64,
    /// SHA-256 of the SHA-256 of its pieces.
    pub(super) digest: [u8; 32],
    /// The file as it was read; `None` when it changed under the reader.
    pub(super) stamp: Option<Stamp>,
}

/// What the jobs say of the tree. Paths are relative to it.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) files: BTreeMap<Vec<u8>, FileClaim>,
    /// Files and folders that could not be read, with the reason.
    pub(super) unreadable: BTreeMap<Vec<u8>, String>,
    pub(super) bytes: u64,
    pub(super) lines: u64,
    pub(super) words: u64,
    pub(super) histogram: [u64; 256],
    pub(super) plain: HashMap<Vec<u8>, u64>,
    /// SHA-256 of each file's path, a zero and its digest, by path.
    pub(super) digest: [u8; 32],
}

/// What to read, and what to pass over.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) root: PathBuf,
    /// Hidden folders and `target` are passed over.
    pub(super) usual: bool,
    /// When the demo began: what changed later is no difference.
    pub(super) began: SystemTime,
}

/// What the proof found.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// What differs, in words; the first ones.
    pub(super) differences: Vec<String>,
    /// How many differences there are.
    pub(super) count: usize,
    /// Files that changed, came or went meanwhile, and so prove nothing.
    pub(super) changed: Vec<PathBuf>,
    /// Files that were compared.
    pub(super) files: u64,
    pub(super) took: Duration,
}

impl Verdict {
    pub(super) fn holds(&self) -> bool {
        self.count == 0
    }

    fn differ(&mut self, what: impl FnOnce() -> String) {
        if self.count < NAMED {
            self.differences.push(what());
        }
        self.count += 1;
    }

    fn same(&mut self, what: &str, jobs: u64, proof: u64) {
        if jobs != proof {
            self.differ(|| format!("{what}: {jobs} by the jobs, {proof} by the proof"));
        }
    }
}

/// One file, as the proof sees it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    bytes: u64,
    lines: u64,
    words: u64,
    digest: [u8; 32],
}

/// Everything, as the proof sees it.
struct Sight {
    files: BTreeMap<Vec<u8>, Seen>,
    unreadable: BTreeMap<Vec<u8>, String>,
    histogram: [u64; 256],
    plain: HashMap<Vec<u8>, u64>,
}

/// Reads the tree and compares.
pub(super) fn prove(task: &Task, claim: &Claim, progress: &Progress) -> Verdict {
    let started = std::time::Instant::now();
    let mut sight = Sight {
        files: BTreeMap::new(),
        unreadable: BTreeMap::new(),
        histogram: [0; 256],
        plain: HashMap::new(),
    };
    let mut buffer = vec![0; 128 << 10];
    descend(task, &task.root, &mut Vec::new(), &mut |relative, path| {
        let Some(path) = path else {
            return drop(sight.unreadable.insert(relative.to_vec(), String::new()));
        };
        match examine(path, &mut buffer, &mut sight.histogram, &mut sight.plain, progress) {
            Ok(seen) => drop(sight.files.insert(relative.to_vec(), seen)),
            Err(error) => drop(sight.unreadable.insert(relative.to_vec(), error.to_string())),
        }
        progress.file();
    });
    let mut verdict = compare(task, claim, &sight);
    verdict.took = started.elapsed();
    verdict
}

/// Calls `visit` for each regular file, and with `None` for what cannot be looked at.
fn descend(task: &Task, folder: &Path, relative: &mut Vec<u8>, visit: &mut dyn FnMut(&[u8], Option<&Path>)) {
    // Names first, so that no folder stays open while its children are read.
    let Ok(names) = fs::read_dir(folder).and_then(|d| d.map(|e| Ok(e?.file_name())).collect::<Result<Vec<_>, _>>())
    else {
        return visit(relative, None);
    };
    let depth = relative.len();
    for name in names {
        if depth > 0 {
            relative.push(b'/');
        }
        relative.extend_from_slice(name.as_bytes());
        let path = folder.join(&name);
        match fs::symlink_metadata(&path) {
            Ok(facts) if facts.is_dir() => {
                let hidden = name.as_bytes()[0] == b'.' || name.as_bytes() == b"target";
                if !(task.usual && hidden) {
                    descend(task, &path, relative, visit);
                }
            }
            Ok(facts) if facts.is_file() => visit(relative, Some(&path)),
            Ok(_) => {}
            Err(_) => visit(relative, None),
        }
        relative.truncate(depth);
    }
}

/// Where in a word a byte stands, if the word may be a plain one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Before,
    Inside,
    Behind,
    NotPlain,
}

fn examine(
    path: &Path,
    buffer: &mut [u8],
    histogram: &mut [u64; 256],
    plain: &mut HashMap<Vec<u8>, u64>,
    progress: &Progress,
) -> std::io::Result<Seen> {
    const FULL: usize = 524_288;
    let mut file = fs::File::open(path)?;
    let mut seen = Seen {
        bytes: 0,
        lines: 0,
        words: 0,
        digest: [0; 32],
    };
    let mut all = Sha256::new();
    // The piece that is being filled, and the end of the last white space in it.
    let mut piece: Vec<u8> = Vec::with_capacity(FULL);
    let mut safe = 0;
    // The word that is being read: 0 bytes when none is.
    let mut length = 0_u64;
    let mut at = At::Before;
    let mut letters: Vec<u8> = Vec::new();
    let mut word_ends = |length: &mut u64, at: &mut At, letters: &mut Vec<u8>| {
        if *length <= 64 && matches!(at, At::Inside | At::Behind) && std::str::from_utf8(letters).is_ok() {
            if let Some(count) = plain.get_mut(letters.as_slice()) {
                *count += 1;
            } else {
                plain.insert(letters.clone(), 1);
            }
        }
        *length = 0;
        *at = At::Before;
        letters.clear();
    };
    loop {
        let got = match file.read(buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for byte in &buffer[..got] {
            let byte = *byte;
            histogram[usize::from(byte)] += 1;
            piece.push(byte);
            match byte {
                9 | 10 | 11 | 12 | 13 | 32 => {
                    seen.lines += u64::from(byte == 10);
                    safe = piece.len();
                    if length > 0 {
                        word_ends(&mut length, &mut at, &mut letters);
                    }
                }
                _ => {
                    seen.words += u64::from(length == 0);
                    length += 1;
                    let letter = matches!(byte, 65..=90 | 97..=122 | 128..);
                    let mark = matches!(byte, 33..=47 | 58..=64 | 91..=96 | 123..=126);
                    at = match at {
                        At::Before | At::Inside if letter && letters.len() < 24 => {
                            letters.push(if matches!(byte, 65..=90) { byte + 32 } else { byte });
                            At::Inside
                        }
                        At::Before if mark => At::Before,
                        At::Inside | At::Behind if mark => At::Behind,
                        _ => At::NotPlain,
                    };
                }
            }
            if piece.len() == FULL {
                let end = if safe == 0 { FULL } else { safe };
                all.update(Sha256::digest(&piece[..end]));
                piece.drain(..end);
                safe = 0;
            }
        }
        let got = u64::try_from(got).unwrap_or(0);
        seen.bytes += got;
        progress.counted(got);
    }
    if length > 0 {
        word_ends(&mut length, &mut at, &mut letters);
    }
    if !piece.is_empty() {
        all.update(Sha256::digest(&piece));
    }
    seen.digest = all.finalize().into();
    Ok(seen)
}

fn compare(task: &Task, claim: &Claim, sight: &Sight) -> Verdict {
    let mut verdict = Verdict::default();
    for (relative, seen) in &sight.files {
        let path = place(task, relative);
        let Some(file) = claim.files.get(relative) else {
            if is_gone(&path) || is_new(task, &path) {
                verdict.changed.push(path);
            } else if claim.unreadable.contains_key(relative) {
                verdict.differ(|| format!("{}: the jobs could not read it, the proof could", path.display()));
            } else {
                verdict.differ(|| format!("{}: the jobs did not find it", path.display()));
            }
            continue;
        };
        if !is_unchanged(&path, file.stamp) {
            verdict.changed.push(path);
            continue;
        }
        verdict.files += 1;
        let name = path.display();
        verdict.same(&format!("{name}: bytes"), file.bytes, seen.bytes);
        verdict.same(&format!("{name}: lines"), file.lines, seen.lines);
        verdict.same(&format!("{name}: words"), file.words, seen.words);
        if file.digest != seen.digest {
            verdict.differ(|| format!("{name}: another digest of its pieces"));
        }
    }
    for relative in claim.files.keys().filter(|r| !sight.files.contains_key(*r)) {
        let path = place(task, relative);
        if is_gone(&path) || is_new(task, &path) {
            verdict.changed.push(path);
        } else {
            let why = sight.unreadable.get(relative).map_or("not found", String::as_str);
            verdict.differ(|| format!("{}: the jobs read it, the proof could not: {why}", path.display()));
        }
    }
    let both = [
        (&claim.unreadable, &sight.unreadable),
        (&sight.unreadable, &claim.unreadable),
    ];
    for (here, there) in both {
        for relative in here.keys().filter(|r| !there.contains_key(*r)) {
            let path = place(task, relative);
            let is_file = claim.files.contains_key(relative) || sight.files.contains_key(relative);
            if is_gone(&path) || is_new(task, &path) {
                verdict.changed.push(path);
            } else if !is_file {
                verdict.differ(|| format!("{}: only one of the two could read it", path.display()));
            }
        }
    }
    verdict.changed.sort();
    verdict.changed.dedup();
    // What cannot be told apart by file is compared only when no file changed meanwhile.
    if verdict.changed.is_empty() {
        compare_totals(claim, sight, &mut verdict);
    }
    verdict
}

fn compare_totals(claim: &Claim, sight: &Sight, verdict: &mut Verdict) {
    let sum = |of: fn(&Seen) -> u64| sight.files.values().map(of).sum::<u64>();
    verdict.same("bytes in all", claim.bytes, sum(|f| f.bytes));
    verdict.same("lines in all", claim.lines, sum(|f| f.lines));
    verdict.same("words in all", claim.words, sum(|f| f.words));
    for (byte, (jobs, proof)) in (0..=255_u8).zip(claim.histogram.iter().zip(&sight.histogram)) {
        verdict.same(&format!("byte 0x{byte:02x}"), *jobs, *proof);
    }
    for (word, proof) in &sight.plain {
        let shown = String::from_utf8_lossy(word);
        verdict.same(
            &format!("word {shown:?}"),
            claim.plain.get(word).copied().unwrap_or(0),
            *proof,
        );
    }
    for (word, jobs) in claim.plain.iter().filter(|(word, _)| !sight.plain.contains_key(*word)) {
        verdict.same(&format!("word {:?}", String::from_utf8_lossy(word)), *jobs, 0);
    }
    let mut all = Sha256::new();
    for (path, file) in &sight.files {
        all.update([path.as_slice(), &[0], &file.digest].concat());
    }
    let digest: [u8; 32] = all.finalize().into();
    if digest != claim.digest {
        verdict.differ(|| "another digest of all files".to_owned());
    }
}

fn place(task: &Task, relative: &[u8]) -> PathBuf {
    if relative.is_empty() {
        return task.root.clone();
    }
    task.root.join(OsString::from_vec(relative.to_vec()))
}

fn is_unchanged(path: &Path, stamp: Option<Stamp>) -> bool {
    let (Some(stamp), Ok(now)) = (stamp, fs::symlink_metadata(path)) else {
        return false;
    };
    (now.dev(), now.ino()) == stamp.inode
        && now.len() == stamp.size
        && (now.mtime(), now.mtime_nsec()) == stamp.modified
        && (now.ctime(), now.ctime_nsec()) == stamp.changed
}

/// Whether it came, or its facts changed, after the demo began.
fn is_new(task: &Task, path: &Path) -> bool {
    let Ok(facts) = fs::symlink_metadata(path) else {
        return false;
    };
    let since = (task.began - TICK).duration_since(UNIX_EPOCH).unwrap_or_default();
    let began = (
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        i64::from(since.subsec_nanos()),
    );
    (facts.ctime(), facts.ctime_nsec()) >= began
}

fn is_gone(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}
