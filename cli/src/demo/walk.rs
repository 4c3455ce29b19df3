//! Finds the files of a tree.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::progress::Progress;

/// Which folders are passed over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Hidden ones and `target`: when nobody said which folder to read.
    pub(super) usual: bool,
    /// The demo's own, by device and number.
    pub(super) own: (u64, u64),
}

/// A regular file.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) size: u64,
}

/// What a tree holds.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) files: Vec<Found>,
    pub(super) folders: u64,
    /// Symbolic links, which are not followed.
    pub(super) links: u64,
    /// Pipes, sockets and devices, which are not opened.
    pub(super) special: u64,
    /// Folders passed over by the rules.
    pub(super) passed: u64,
    /// What could not be looked at, and why.
    pub(super) unreadable: Vec<(PathBuf, String)>,
}

impl Tree {
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }
}

pub(super) fn walk(root: &Path, rules: Rules, progress: &Progress) -> Tree {
    let mut tree = Tree::default();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        tree.folders += 1;
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                tree.unreadable.push((folder, error.to_string()));
                continue;
            }
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    tree.unreadable.push((folder.clone(), error.to_string()));
                    break;
                }
            };
            // Of the entry itself: a link is not followed.
            let facts = match entry.metadata() {
                Ok(facts) => facts,
                Err(error) => {
                    tree.unreadable.push((entry.path(), error.to_string()));
                    continue;
                }
            };
            let kind = facts.file_type();
            if kind.is_dir() {
                if (rules.usual && is_usual(&entry.file_name())) || (facts.dev(), facts.ino()) == rules.own {
                    tree.passed += u64::from((facts.dev(), facts.ino()) != rules.own);
                } else {
                    folders.push(entry.path());
                }
            } else if kind.is_file() {
                tree.files.push(Found {
                    path: entry.path(),
                    size: facts.len(),
                });
                progress.found();
            } else if kind.is_symlink() {
                tree.links += 1;
            } else {
                tree.special += 1;
            }
        }
    }
    tree
}

fn is_usual(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".") || name == "target"
}
