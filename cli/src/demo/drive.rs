//! Enqueues the jobs, waits for them and merges what they answer.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use millhand_client::{Client, JobFailure};
use millhand_proto::{JobId, State, Task};
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::figures::{Phases, Timeline};
use super::progress::Progress;
use super::proof::{Claim, FileClaim};
use super::tasks::{Count, Counted, Read, SECTION, Section, Stamp};
use super::walk::Tree;

/// KiB that are read or enqueued and not counted yet: they bound the queue, and with it memory
/// and the file.
const WINDOW: u32 = 64 << 10;
/// Files that are worked on at once.
const FILES: usize = 256;
/// How long a job may take before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// Failures that are named; the others are counted.
const NAMED: usize = 10;

/// What is merged as jobs end.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) claim: Claim,
    pub(super) read: Phases,
    pub(super) count: Phases,
    pub(super) timeline: Timeline,
    pub(super) jobs: u64,
    pub(super) attempts: u64,
    /// Jobs that did not succeed.
    pub(super) failed: u64,
    pub(super) failures: Vec<String>,
}

/// Room for what is under way, from before it is enqueued until it is counted.
#[derive(Clone, Debug)]
pub(super) struct Window(Arc<Semaphore>);

impl Window {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(WINDOW as usize)))
    }

    async fn room(&self, bytes: u64) -> Result<Arc<OwnedSemaphorePermit>, String> {
        let room = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.0).acquire_many_owned(room).await;
        room.map(Arc::new).map_err(|e| e.to_string())
    }

    /// Once [`drive`] was given up: waits for the jobs that are on their way into the queue. No other
    /// sets out after them, since nobody has room any more.
    pub(super) async fn close(&self) {
        // It is never closed otherwise.
        let all = self.0.acquire_many(WINDOW).await;
        self.0.close();
        drop(all);
    }
}

#[derive(Debug)]
struct Hub {
    client: Client,
    window: Window,
    progress: Arc<Progress>,
    began: Instant,
    ledger: Mutex<Ledger>,
    ended: mpsc::UnboundedSender<JobId>,
}

/// One piece, as its file needs it.
struct Piece {
    bytes: u64,
    lines: u64,
    words: u64,
    sha256: Bytes,
}

/// Runs the jobs for all files of `tree`, which lies under `root`; answers how long they took, too.
pub(super) async fn drive(
    client: Client,
    window: Window,
    root: &Path,
    tree: Tree,
    spoil: bool,
    progress: Arc<Progress>,
) -> Result<(Ledger, Duration), String> {
    let (ended, forgotten) = mpsc::unbounded_channel();
    let forgetter = tokio::spawn(forget(client.clone(), forgotten));
    let claim = Claim {
        files: BTreeMap::new(),
        unreadable: tree
            .unreadable
            .into_iter()
            .map(|(path, why)| (relative(root, &path), why))
            .collect(),
        bytes: 0,
        lines: 0,
        words: 0,
        histogram: [0; 256],
        plain: HashMap::new(),
        digest: [0; 32],
    };
    let hub = Arc::new(Hub {
        client,
        window,
        progress,
        began: Instant::now(),
        ledger: Mutex::new(Ledger {
            claim,
            read: Phases::default(),
            count: Phases::default(),
            timeline: Timeline::default(),
            jobs: 0,
            attempts: 0,
            failed: 0,
            failures: Vec::new(),
        }),
        ended,
    });
    let mut files: JoinSet<Result<(), String>> = JoinSet::new();
    let mut spoiled = !spoil;
    for found in tree.files {
        if files.len() >= FILES
            && let Some(file) = files.join_next().await
        {
            file.map_err(|e| e.to_string())??;
        }
        // The first file that has something in it.
        let spoil = !spoiled && found.size > 0;
        spoiled |= spoil;
        let name = relative(root, &found.path);
        files.spawn(one_file(Arc::clone(&hub), name, found.path, found.size, spoil));
    }
    while let Some(file) = files.join_next().await {
        file.map_err(|e| e.to_string())??;
    }
    let took = hub.began.elapsed();
    let hub = Arc::into_inner(hub).ok_or("a file is still being worked on")?;
    let Hub { ledger, ended, .. } = hub;
    drop(ended);
    let mut ledger = ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut all = Sha256::new();
    for (path, file) in &ledger.claim.files {
        all.update(path);
        all.update([0]);
        all.update(file.digest);
    }
    ledger.claim.digest = all.finalize().into();
    // It ends when all is said; what it cannot forget expires.
    let _ = forgetter.await;
    Ok((ledger, took))
}

/// Drops the records of jobs whose results are merged, so that the file stays small.
async fn forget(client: Client, mut ended: mpsc::UnboundedReceiver<JobId>) {
    let mut ids = Vec::new();
    while ended.recv_many(&mut ids, 256).await > 0 {
        // What cannot be forgotten only takes room.
        let _ = client.admin().drop(ids.drain(..)).await;
    }
}

fn relative(root: &Path, path: &Path) -> Vec<u8> {
    path.strip_prefix(root).unwrap_or(path).as_os_str().as_bytes().to_vec()
}

/// Reads a file section by section; its pieces are counted meanwhile.
async fn one_file(hub: Arc<Hub>, name: Vec<u8>, path: PathBuf, size: u64, spoil: bool) -> Result<(), String> {
    let path = Bytes::copy_from_slice(path.as_os_str().as_bytes());
    let mut pieces: JoinSet<Result<(usize, Option<Piece>), String>> = JoinSet::new();
    let mut spawned = 0;
    let mut stamp: Option<Stamp> = None;
    let mut steady = true;
    let mut trouble = None;
    let mut from = Some((0, false));
    while let Some((offset, in_word)) = from {
        let permit = hub
            .window
            .room(size.saturating_sub(offset).clamp(1024, SECTION))
            .await?;
        let job = Read {
            path: path.clone(),
            offset,
            in_word,
            spoil: spoil && offset == 0,
        };
        let id = hub.enqueue(job, Arc::clone(&permit)).await?;
        let section = match hub.ended::<Read>(id).await? {
            Some(Section::Read { pieces, next, stamps }) => (pieces, next, stamps),
            Some(Section::Unreadable(why)) => {
                trouble = Some(why);
                break;
            }
            None => {
                trouble = Some("its job did not succeed".to_owned());
                break;
            }
        };
        let (ids, next, stamps) = section;
        steady &= stamps[0] == stamps[1] && stamp.is_none_or(|s| s == stamps[0]);
        stamp = Some(stamps[1]);
        for id in ids {
            let (hub, permit, at) = (Arc::clone(&hub), Arc::clone(&permit), spawned);
            pieces.spawn(async move {
                let piece = hub.piece(id).await?;
                drop(permit);
                Ok((at, piece))
            });
            spawned += 1;
        }
        from = next;
    }
    let mut sums: Vec<Option<Piece>> = (0..spawned).map(|_| None).collect();
    while let Some(piece) = pieces.join_next().await {
        let (at, piece) = piece.map_err(|e| e.to_string())??;
        sums[at] = piece;
    }
    let mut file = FileClaim {
        bytes: 0,
        lines: 0,
        words: 0,
        digest: [0; 32],
        stamp: stamp.filter(|_| steady),
    };
    let mut digest = Sha256::new();
    for piece in sums.into_iter().flatten() {
        file.bytes += piece.bytes;
        file.lines += piece.lines;
        file.words += piece.words;
        digest.update(&piece.sha256);
    }
    file.digest = digest.finalize().into();
    let mut ledger = hub.ledger();
    match trouble {
        Some(why) => drop(ledger.claim.unreadable.insert(name, why)),
        None => {
            ledger.claim.bytes += file.bytes;
            ledger.claim.lines += file.lines;
            ledger.claim.words += file.words;
            ledger.claim.files.insert(name, file);
        }
    }
    drop(ledger);
    hub.progress.file();
    Ok(())
}

impl Hub {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enqueues a job, to the end also when its file is given up: until then it holds its room.
    async fn enqueue(&self, job: Read, room: Arc<OwnedSemaphorePermit>) -> Result<JobId, String> {
        let client = self.client.clone();
        let enqueueing = tokio::spawn(async move {
            let enqueued = client.enqueue(job).await;
            drop(room);
            enqueued
        });
        let enqueued = enqueueing.await.map_err(|e| e.to_string())?;
        Ok(enqueued.map_err(|e| e.to_string())?.id())
    }

    /// Waits for a job; `None` when it did not succeed.
    async fn ended<T: Task>(&self, id: JobId) -> Result<Option<T::Output>, String>
    where
        T::Output: DeserializeOwned,
    {
        let mut view = self.client.wait_raw(id, PATIENCE).await.map_err(|e| e.to_string())?;
        self.progress.job();
        let result = view.entry.result.take();
        {
            let mut ledger = self.ledger();
            ledger.jobs += 1;
            ledger.attempts += u64::from(view.entry.attempts);
            ledger.timeline.add(self.began.elapsed(), 1, 0);
            if let Some(receipt) = &view.entry.receipt {
                let phases = if T::NAME == Count::NAME {
                    &mut ledger.count
                } else {
                    &mut ledger.read
                };
                phases.add(receipt);
            }
            if view.entry.state != State::Succeeded {
                ledger.failed += 1;
                if ledger.failures.len() < NAMED {
                    ledger
                        .failures
                        .push(format!("{} {id}: {}", T::NAME, JobFailure::of(&view)));
                }
                return Ok(None);
            }
        }
        let _ = self.ended.send(id);
        let result = result.ok_or_else(|| format!("job {id} has no result"))?;
        result
            .decode()
            .map(Some)
            .map_err(|e| format!("the result of job {id}: {e}"))
    }

    /// Waits for the count of a piece and merges it.
    async fn piece(&self, id: JobId) -> Result<Option<Piece>, String> {
        let Some(Counted {
            bytes,
            lines,
            words,
            sha256,
            histogram,
            vocabulary,
            counts,
        }) = self.ended::<Count>(id).await?
        else {
            return Ok(None);
        };
        self.progress.counted(bytes);
        let mut ledger = self.ledger();
        ledger.timeline.add(self.began.elapsed(), 0, bytes);
        for (sum, count) in ledger.claim.histogram.iter_mut().zip(histogram) {
            *sum += u64::from(count);
        }
        let plain = &mut ledger.claim.plain;
        for (word, count) in vocabulary.split(|b| *b == b'\n').zip(counts) {
            match plain.get_mut(word) {
                Some(sum) => *sum += u64::from(count),
                None => drop(plain.insert(word.to_vec(), u64::from(count))),
            }
        }
        Ok(Some(Piece {
            bytes,
            lines,
            words,
            sha256,
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use millhand_broker::Backend;
    use millhand_broker::memory::Memory;

    use super::super::walk::Found;
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn who_gives_it_up_waits_for_what_is_on_its_way_and_no_more_sets_out() {
        for _ in 0..20 {
            let backend: Arc<dyn Backend> = Memory::open().unwrap();
            let found = |n: usize| Found {
                path: format!("/{n}").into(),
                size: 1,
            };
            let tree = Tree {
                files: (0..FILES).map(found).collect(),
                ..Tree::default()
            };
            let (client, window) = (Client::new(Arc::clone(&backend)), Window::new());
            let work = drive(client, window.clone(), Path::new("/"), tree, false, Arc::default());
            let ready = async || backend.pending(Vec::new()).await.unwrap().ready;
            let some = async { while ready().await == 0 {} };
            tokio::select! {
                done = Box::pin(work) => panic!("nobody runs them: {done:?}"),
                () = some => {}
            }
            window.close().await;
            let all = ready().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(ready().await, all);
        }
    }
}
