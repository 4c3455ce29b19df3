//! The two tasks: `demo.read` waits for the disk, `demo.count` works on what was read.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use bytes::Bytes;
use millhand_proto::{JobId, Task};
use millhand_worker::{Context, Failure};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Bytes of a piece at the most. Its result holds each of its words once, with a count: about 4/3
/// of the piece in the worst case, which is below the limit of a result.
pub(super) const PIECE: usize = 512 << 10;
/// Pieces that one `demo.read` reads at the most: its children are held in memory until it ends.
const SECTION_PIECES: usize = 16;
/// Bytes that one `demo.read` reads at the most.
pub(super) const SECTION: u64 = 8 << 20;
/// Longer words are counted, but not by themselves.
const LONGEST: usize = 24;
/// The same with the punctuation around them. It must be less than a piece: what a hard cut divides
/// is longer, so that no plain word is ever divided.
const LONGEST_RUN: usize = 64;

/// Reads a section of a file, from `offset` on.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Read {
    /// The path's bytes: a name may be no text.
    pub(super) path: Bytes,
    pub(super) offset: u64,
    /// Whether the byte before `offset` is part of a word.
    pub(super) in_word: bool,
    /// Whether the first piece is to be spoiled.
    pub(super) spoil: bool,
}

impl Task for Read {
    const NAME: &'static str = "demo.read";
    const QUEUE: &'static str = "demo-read";
    type Output = Section;
}

/// What `demo.read` answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Section {
    /// The section's pieces are enqueued.
    Read {
        /// Their jobs, in order.
        pieces: Vec<JobId>,
        /// Where the next section starts; `None` at the end of the file.
        next: Option<(u64, bool)>,
        /// The file before it was read, and after.
        stamps: [Stamp; 2],
    },
    /// The file cannot be read, for this reason. No other attempt would mend it.
    Unreadable(String),
}

/// By what a change of a file is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub(super) inode: (u64, u64),
    pub(super) size: u64,
    pub(super) modified: (i64, i64),
    pub(super) changed: (i64, i64),
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self {
            inode: (file.dev(), file.ino()),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

/// Counts one piece.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Count {
    data: Bytes,
    /// Whether the piece begins inside a word that the piece before it counted.
    in_word: bool,
    spoil: bool,
}

impl Task for Count {
    const NAME: &'static str = "demo.count";
    const QUEUE: &'static str = "demo-count";
    type Output = Counted;
}

/// What `demo.count` answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Counted {
    pub(super) bytes: u64,
    pub(super) lines: u64,
    pub(super) words: u64,
    pub(super) sha256: Bytes,
    /// How often each of the 256 bytes occurs.
    pub(super) histogram: Vec<u32>,
    /// The plain words, one a line.
    pub(super) vocabulary: Bytes,
    /// How often each occurs.
    pub(super) counts: Vec<u32>,
}

/// The async task. The disk is waited for on tokio's blocking threads.
pub(super) async fn read(job: Read, cx: Context) -> Result<Section, Failure> {
    let spoil = job.spoil;
    let read = tokio::task::spawn_blocking(move || {
        let path = Path::new(OsStr::from_bytes(&job.path));
        read_section(path, job.offset, job.in_word)
    });
    let (pieces, next, stamps) = match read.await? {
        Ok(section) => section,
        Err(error) => return Ok(Section::Unreadable(error.to_string())),
    };
    let mut ids = Vec::with_capacity(pieces.len());
    for (at, (data, in_word)) in pieces.into_iter().enumerate() {
        let spoil = spoil && at == 0;
        ids.push(cx.enqueue(Count { data, in_word, spoil })?);
    }
    Ok(Section::Read {
        pieces: ids,
        next,
        stamps,
    })
}

type Cut = (Vec<(Bytes, bool)>, Option<(u64, bool)>, [Stamp; 2]);

fn read_section(path: &Path, offset: u64, in_word: bool) -> io::Result<Cut> {
    // It may have become a pipe since it was found, and opening one would wait for ever.
    if !path.symlink_metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file any more"));
    }
    let mut file = File::open(path)?;
    let before = Stamp::of(&file.metadata()?);
    file.seek(SeekFrom::Start(offset))?;
    let (pieces, next) = cut(&mut file, offset, in_word)?;
    let after = Stamp::of(&file.metadata()?);
    Ok((pieces, next, [before, after]))
}

type Pieces = (Vec<(Bytes, bool)>, Option<(u64, bool)>);

/// Cuts what follows into pieces: each ends behind the last white space that fits, or, in a run
/// longer than a piece, where it is full.
fn cut(file: &mut impl io::Read, mut offset: u64, mut in_word: bool) -> io::Result<Pieces> {
    let mut pieces = Vec::new();
    let mut rest = Vec::new();
    while pieces.len() < SECTION_PIECES {
        let missing = PIECE - rest.len();
        let got = file
            .by_ref()
            .take(u64::try_from(missing).unwrap_or(0))
            .read_to_end(&mut rest)?;
        if got < missing {
            // The end of the file.
            if !rest.is_empty() {
                pieces.push((rest.into(), in_word));
            }
            return Ok((pieces, None));
        }
        let end = rest.iter().rposition(|b| is_space(*b)).map_or(PIECE, |at| at + 1);
        let carry = rest.split_off(end);
        let ends_in_word = rest.last().is_some_and(|b| !is_space(*b));
        offset += u64::try_from(rest.len()).unwrap_or(0);
        pieces.push((std::mem::replace(&mut rest, carry).into(), in_word));
        in_word = ends_in_word;
    }
    Ok((pieces, Some((offset, in_word))))
}

/// Space, tab, line feed, vertical tab, form feed, carriage return: white space as `wc` has it.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// The process task.
// A handler gets its job by value.
#[allow(clippy::needless_pass_by_value)]
pub(super) fn count(job: Count, _cx: Context) -> Result<Counted, Failure> {
    let mut data = job.data;
    if job.spoil && !data.is_empty() {
        let mut spoiled = data.to_vec();
        spoiled[0] ^= 0x20;
        data = spoiled.into();
    }
    let mut histogram = vec![0_u32; 256];
    for byte in &data {
        histogram[usize::from(*byte)] += 1;
    }
    let mut words = 0_u64;
    let mut plain: HashMap<Vec<u8>, u32> = HashMap::new();
    let mut lower = [0; LONGEST];
    for (at, run) in data.split(|b| is_space(*b)).enumerate() {
        // A run at the very start goes on from the piece before.
        if run.is_empty() || (at == 0 && job.in_word) {
            continue;
        }
        words += 1;
        if let Some(word) = plain_word(run, &mut lower) {
            match plain.get_mut(word) {
                Some(count) => *count += 1,
                None => {
                    plain.insert(word.to_vec(), 1);
                }
            }
        }
    }
    let mut plain: Vec<_> = plain.into_iter().collect();
    plain.sort_unstable();
    let mut vocabulary = Vec::new();
    for (word, _) in &plain {
        vocabulary.extend_from_slice(word);
        vocabulary.push(b'\n');
    }
    Ok(Counted {
        bytes: u64::try_from(data.len()).unwrap_or(0),
        lines: u64::from(histogram[usize::from(b'\n')]),
        words,
        sha256: Sha256::digest(&data).to_vec().into(),
        histogram,
        vocabulary: vocabulary.into(),
        counts: plain.into_iter().map(|(_, count)| count).collect(),
    })
}

/// A word that is counted by itself: at most 64 bytes, and without ASCII punctuation around it, 1 to 24 bytes of UTF-8,
/// ASCII only as letters, in lower case.
fn plain_word<'a>(run: &[u8], lower: &'a mut [u8; LONGEST]) -> Option<&'a [u8]> {
    if run.len() > LONGEST_RUN {
        return None;
    }
    let first = run.iter().position(|b| !b.is_ascii_punctuation())?;
    let last = run.iter().rposition(|b| !b.is_ascii_punctuation())?;
    let word = &run[first..=last];
    if word.len() > LONGEST || !word.iter().all(|b| b.is_ascii_alphabetic() || !b.is_ascii()) {
        return None;
    }
    std::str::from_utf8(word).ok()?;
    let lower = &mut lower[..word.len()];
    lower.copy_from_slice(word);
    lower.make_ascii_lowercase();
    Some(lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cuts `data` by sections, as the jobs do.
    fn pieces(data: &[u8]) -> Vec<(Bytes, bool)> {
        let (mut all, mut from) = (Vec::new(), Some((0, false)));
        while let Some((offset, in_word)) = from {
            let start = usize::try_from(offset).unwrap();
            let (pieces, next) = cut(&mut &data[start..], offset, in_word).unwrap();
            all.extend(pieces);
            from = next;
        }
        all
    }

    #[test]
    fn pieces_are_cut_at_white_space_and_a_long_run_counts_once() {
        let mut data = vec![b'x'; 3 * PIECE + 7];
        data.extend_from_slice(b" end");
        let cut = pieces(&data);
        assert_eq!(cut.iter().map(|(d, _)| d.len()).sum::<usize>(), data.len());
        assert_eq!(
            cut.iter().map(|(_, w)| *w).collect::<Vec<_>>(),
            [false, true, true, true]
        );
        let text = "a word here ".repeat(2 * SECTION_PIECES * PIECE / 12);
        let cut = pieces(text.as_bytes());
        assert!(cut.len() > 2 * SECTION_PIECES - 1 && cut.iter().all(|(d, w)| !w && d.ends_with(b" ")));
        assert!(pieces(b"").is_empty());
        assert_eq!(pieces(&vec![b' '; PIECE]).len(), 1);
        let mut exact = vec![b'x'; PIECE];
        exact.extend_from_slice(b"yz q");
        let cut = pieces(&exact);
        assert_eq!((cut[1].0.as_ref(), cut[1].1), (&b"yz q"[..], true));
    }

    #[test]
    fn plain_words_are_letters_between_punctuation() {
        let word =
            |run: &str| plain_word(run.as_bytes(), &mut [0; LONGEST]).map(|w| String::from_utf8(w.to_vec()).unwrap());
        assert_eq!(word("(\"Hello,\")").as_deref(), Some("hello"));
        assert_eq!(word(&("a".to_owned() + &"!".repeat(64))), None);
        assert_eq!(word("Äh").as_deref(), Some("Äh"));
        for none in ["...", "don't", "a1", "x".repeat(25).as_str()] {
            assert_eq!(word(none), None, "{none}");
        }
        assert!(plain_word(b"a\xff", &mut [0; LONGEST]).is_none());
    }
}
