//! Runs a fuzz target over its committed corpus, in ordinary tests of the crate that holds the target.
//! Every crate includes this file. It counts what a thread allocates, so reading is bounded in memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

/// Long enough for a debug build on a busy machine; what is meant is 10 ms.
const SOON: Duration = Duration::from_secs(5);

/// Runs `read` and then `check` over every file of the corpus. `read` may hold at most twice the input
/// and `room` bytes at once.
pub(crate) fn corpus(target: &str, room: usize, read: impl Fn(&[u8]), check: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 12, "{} holds {} files", folder.display(), files.len());
    let rounds = if std::env::var_os("MILLHAND_LONG").is_some() {
        20_000
    } else {
        50
    };
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for file in files {
        let data = std::fs::read(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy();
        bounded(&name, &data, room, &read);
        check(&data);
        for _ in 0..rounds {
            check(&dice.changed(&data));
        }
    }
}

/// Changes inputs, each run in the same way. The fuzzer itself does it with more thought.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or(0) % end.max(1)
    }

    fn changed(&mut self, data: &[u8]) -> Vec<u8> {
        let mut data = data.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(data.len() + 1);
            let end = (at + self.below(9)).min(data.len());
            match self.below(4) {
                0 => drop(data.drain(at..end)),
                1 => data.insert(at, [0, 1, 0x7f, 0x80, 0xc1, 0xdf, 0xff, b'@'][self.below(8)]),
                2 => data.splice(at..at, data[at..end].to_vec()).for_each(drop),
                _ => {
                    if let Some(byte) = data.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
            }
        }
        data
    }
}

/// Runs `read` over `data`: it ends soon, and holds at most twice the input and `room` bytes at once.
pub(crate) fn bounded(name: &str, data: &[u8], room: usize, read: impl FnOnce(&[u8])) {
    let before = LIVE.get();
    PEAK.set(before);
    let started = Instant::now();
    read(data);
    let took = started.elapsed();
    let held = PEAK.get() - before;
    assert!(
        held <= 2 * data.len() + room,
        "{name}: {} bytes took {held}",
        data.len()
    );
    assert!(took < SOON, "{name}: {} bytes took {took:?}", data.len());
}

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(more: usize, less: usize) {
    // What another thread allocated may be freed here.
    let live = LIVE.get().saturating_add(more).saturating_sub(less);
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

#[allow(
    unsafe_code,
    reason = "an allocator is unsafe by its nature; this one counts and passes on"
)]
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
