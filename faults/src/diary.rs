//! Append-only files of JSON lines, which several processes write and which no fault of a run touches. What
//! was promised is judged from them alone.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

/// What producers asked for and were answered.
pub(crate) const PRODUCED: &str = "produced.jsonl";
/// What handlers did.
pub(crate) const RAN: &str = "ran.jsonl";
/// What was done to processes and servers.
pub(crate) const DONE: &str = "done.jsonl";
/// What was found when all was over.
pub(crate) const FOUND: &str = "found.jsonl";

/// One of these files.
#[derive(Debug)]
pub(crate) struct Diary(File);

impl Diary {
    pub(crate) fn open(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        let file = OpenOptions::new().create(true).append(true).open(&path);
        Ok(Self(file.with_context(|| path.display().to_string())?))
    }

    /// One line, with the time in milliseconds; written at once, so that lines of several processes do not mix. It
    /// begins on a line of its own: who is killed while it writes leaves the beginning of one.
    pub(crate) fn write(&self, what: &str, facts: &[(&str, Value)]) -> Result<()> {
        let mut line = Map::new();
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        line.insert("at".to_owned(), u64::try_from(now)?.into());
        line.insert("what".to_owned(), what.into());
        line.extend(facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let text = format!("\n{}\n", Value::Object(line));
        (&self.0).write_all(text.as_bytes())?;
        Ok(())
    }
}

/// What a line says. Nothing, where it is empty or only the beginning of one, whose writer was killed.
pub(crate) fn read(line: &str) -> serde_json::Result<Option<Value>> {
    match serde_json::from_str(line) {
        Err(error) if error.is_eof() => Ok(None),
        line => line.map(Some),
    }
}

/// The whole lines of a diary so far, one after the other.
pub(crate) fn lines(folder: &Path, name: &str) -> Result<impl Iterator<Item = Result<Value>>> {
    let file = BufReader::new(File::open(folder.join(name))?);
    let read = |line: std::io::Result<String>| Ok(read(&line?)?);
    Ok(file.lines().filter_map(move |line| read(line).transpose()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_began_to_write_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let diary = Diary::open(folder.path(), RAN).unwrap();
        diary.write("start", &[]).unwrap();
        (&diary.0).write_all(b"\n{\"wha").unwrap();
        diary.write("end", &[]).unwrap();
        let whats = lines(folder.path(), RAN)
            .unwrap()
            .map(|line| line.unwrap()["what"].clone());
        assert_eq!(whats.collect::<Vec<_>>(), ["start", "end"]);
        (&diary.0).write_all(b"\nno line of ours\n").unwrap();
        assert!(lines(folder.path(), RAN).unwrap().any(|line| line.is_err()));
    }
}
