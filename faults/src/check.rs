//! The checker: judges a run by its diaries alone. It knows the names in them and nothing of Millhand: it uses
//! nothing of the other modules, and runs as a process of its own.
//!
//! * I1: every job that was accepted ended, and none is on its way when all is over.
//! * I2: nothing ran, or is remembered, that nobody enqueued or a handler's success did not bring.
//! * I3: one end for each job, the one that its kind asks for, with the result that follows from it.
//! * I4: no job started more often than its kind and the kills of processes that had started it explain.
//! * I5: no attempt beyond the last that the policy allows.
//! * I8: no message and no claim is left.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde_json::{Value, json};

/// What is known of a job.
#[derive(Default)]
struct Job {
    kind: String,
    n: u64,
    accepted: bool,
    /// The process and attempt of each start.
    starts: Vec<(u64, u64)>,
    /// Handlers' words that the job is over.
    ends: usize,
    /// The state, and result, of each time it was looked at when all was over.
    found: Vec<(String, Option<u64>)>,
}

fn lines(folder: &Path, name: &str) -> io::Result<Vec<Value>> {
    let file = match std::fs::File::open(folder.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let mut lines = Vec::new();
    for line in BufReader::new(file).lines() {
        lines.push(serde_json::from_str(&line?)?);
    }
    Ok(lines)
}

fn text<'v>(line: &'v Value, name: &str) -> &'v str {
    line[name].as_str().unwrap_or_default()
}

/// The state in which a job of this kind ends, and the starts that it takes.
fn expected(kind: &str) -> (&'static str, usize) {
    match kind {
        "die" => ("dead", 1),
        "retry" | "snooze" => ("succeeded", 2),
        _ => ("succeeded", 1),
    }
}

/// Judges; the numbers, with what is wrong in words under `wrong`.
pub(crate) fn check(folder: &Path) -> io::Result<Value> {
    let mut jobs: BTreeMap<String, Job> = BTreeMap::new();
    let (mut attempted, mut acknowledged, mut wrong) = (0, 0, Vec::new());
    for line in lines(folder, "produced.jsonl")? {
        let job = jobs.entry(text(&line, "id").to_owned()).or_default();
        match text(&line, "what") {
            "attempt" => {
                attempted += usize::from(job.kind.is_empty());
                text(&line, "kind").clone_into(&mut job.kind);
                job.n = line["n"].as_u64().unwrap_or_default();
            }
            "ok" => {
                acknowledged += usize::from(!job.accepted);
                job.accepted = true;
            }
            _ => {}
        }
    }
    let produced: BTreeSet<String> = jobs.keys().cloned().collect();
    let mut children: HashMap<String, String> = HashMap::new();
    for line in lines(folder, "ran.jsonl")? {
        let id = text(&line, "id").to_owned();
        let job = jobs.entry(id.clone()).or_default();
        match text(&line, "what") {
            "start" => {
                let number = |name: &str| line[name].as_u64().unwrap_or_default();
                job.starts.push((number("pid"), number("attempt")));
            }
            "died" => job.ends += 1,
            "end" => {
                job.ends += 1;
                if let Some(child) = line["child"].as_str() {
                    children.insert(child.to_owned(), id);
                }
            }
            _ => {}
        }
    }
    for (child, parent) in &children {
        let n = jobs.get(parent).map_or(0, |job| job.n);
        let job = jobs.entry(child.clone()).or_default();
        (job.kind, job.n, job.accepted) = ("child".to_owned(), n + 1_000_000, true);
    }
    let done = lines(folder, "done.jsonl")?;
    // What the store forgot cannot be found in it, and may run again.
    let flushes = done.iter().filter(|line| text(line, "what") == "flush").count();
    let kills: Vec<u64> = done
        .iter()
        .filter(|line| text(line, "what") == "kill")
        .filter_map(|line| line["pid"].as_u64())
        .collect();
    let mut left = Vec::new();
    for line in lines(folder, "found.jsonl")? {
        match text(&line, "what") {
            "job" => {
                let job = jobs.entry(text(&line, "id").to_owned()).or_default();
                job.found
                    .push((text(&line, "state").to_owned(), line["result"].as_u64()));
            }
            "left" => left.push(line["of"].clone()),
            _ => {}
        }
    }

    let (mut lost, mut stuck, mut extra, mut twice, mut dead, mut recovered) = (0, 0, 0, 0, 0, 0);
    let mut hit = BTreeSet::new();
    for (id, job) in &jobs {
        let mut say = |what: String| wrong.push(format!("{id} ({}): {what}", job.kind));
        if job.kind.is_empty() {
            say(format!(
                "I2: nobody enqueued it, and it started {} times",
                job.starts.len()
            ));
            continue;
        }
        let known = job.accepted || !job.starts.is_empty();
        let (state, starts) = expected(&job.kind);
        let states: BTreeSet<&str> = job.found.iter().map(|(state, _)| state.as_str()).collect();
        recovered += usize::from(!job.accepted && !job.starts.is_empty());
        if known && job.starts.is_empty() {
            lost += 1;
            say("I1: it was accepted and never started".to_owned());
        } else if flushes > 0 && states.is_empty() {
            if job.ends == 0 {
                stuck += 1;
                say("I1: no handler ended it".to_owned());
            }
        } else if known && !states.contains(state) {
            stuck += 1;
            say(format!("I1, I3: it is {states:?} and should be {state}"));
        } else if states.len() > 1 {
            say(format!("I3: it ended as {states:?}"));
        }
        let results: BTreeSet<u64> = job.found.iter().filter_map(|(_, result)| *result).collect();
        if state == "succeeded" && results.iter().any(|result| *result != job.n * job.n) {
            say(format!("I3: its result is {results:?}, of {}", job.n));
        }
        dead += usize::from(states.contains("dead"));
        let killed: Vec<u64> = kills
            .iter()
            .copied()
            .filter(|pid| job.starts.iter().any(|start| start.0 == *pid))
            .collect();
        hit.extend(killed.iter().copied());
        extra += job.starts.len().saturating_sub(starts);
        twice += usize::from(job.starts.len() > starts);
        if job.starts.len() > starts + killed.len() + flushes {
            let count = job.starts.len();
            say(format!("I4: it started {count} times, with {} kills", killed.len()));
        }
        if let Some((_, attempt)) = job.starts.iter().find(|(_, attempt)| *attempt > 4) {
            say(format!("I5: attempt {attempt}"));
        }
    }
    wrong.extend(left.iter().map(|what| format!("I8: left behind: {what}")));
    Ok(json!({
        "attempted": attempted,
        "acknowledged": acknowledged,
        "unknown": produced.iter().filter(|id| jobs.get(*id).is_some_and(|job| !job.accepted)).count(),
        "ok": jobs.values().filter(|job| job.found.iter().any(|(state, _)| state == "succeeded")).count(),
        "dead": dead,
        "recovered": recovered,
        "lost": lost,
        "stuck": stuck + left.len(),
        "duplicated": twice,
        "extra_executions": extra,
        "kills": kills.len(),
        "flushes": flushes,
        "kills_that_hit_running_jobs": hit.len(),
        "wrong": wrong,
    }))
}
