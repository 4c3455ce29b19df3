//! The checker: judges a run by its diaries alone. It knows the names in them and nothing of Millhand: it uses
//! nothing of the other modules, and runs as a process of its own.
//!
//! * I1: every job that was accepted ended, and none is on its way when all is over.
//! * I2: nothing ran, or is remembered, that nobody enqueued, that was refused, or that a handler's success did
//!   not bring.
//! * I3: one end for each job, the one that its kind, or who cancelled it, asks for, with the result that follows
//!   from it, brought by the newest claim (unless the store forgot the older ones).
//! * I4: no job started more often than its kind, the kills, freezes and interruptions of processes that had
//!   started it, and a store that forgot explain.
//! * I5: no attempt beyond the last that the policy allows.
//! * I8: no message is left.
//! * I9: no secret stands in a log.
//! * I10: who lived through it holds no more of the machine than before, and nobody else lives on.
//!
//! That who is told to stop ends with 0, and nobody else does (I11), is seen by who runs the processes.

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
    refused: bool,
    /// Somebody asked to cancel it; was told that it is.
    cancel_asked: bool,
    cancelled: bool,
    /// The process, attempt and time of each start.
    starts: Vec<(u64, u64, u64)>,
    /// The newest claim that started it: its hand, its number.
    newest: Option<(u64, u64)>,
    /// The claims whose results were found.
    found_of: BTreeSet<(u64, u64)>,
    /// The process and time of each word of a handler that the job is over.
    ends: Vec<(u64, u64)>,
    /// The same of each word that an attempt is over.
    words: Vec<(u64, u64)>,
    /// The state, and result, of each time it was looked at when all was over.
    found: Vec<(String, Option<u64>)>,
}

/// An attempt whose handler has ended is still under way for a while: its end is not written. In milliseconds.
const UNSETTLED: u64 = 1000;

impl Job {
    /// Whether an attempt of this process had begun then, and was not over for longer than `since`.
    fn ran_at(&self, pid: u64, at: u64, since: u64) -> bool {
        let begun = self.starts.iter().filter(|start| start.0 == pid && start.2 <= at);
        let Some(begun) = begun.map(|start| start.2).max() else {
            return false;
        };
        let before = at.saturating_sub(since);
        let over = |(of, word): &(u64, u64)| *of == pid && (begun..=before).contains(word);
        !self.words.iter().any(over)
    }
}

/// What was done to the system, and when.
#[derive(Default)]
struct Done {
    /// Processes that were killed.
    kills: Vec<(u64, u64)>,
    /// Processes that stood still.
    freezes: Vec<(u64, u64)>,
    /// Processes that gave back what they had begun.
    interrupts: Vec<(u64, u64)>,
    /// Times at which a store forgot.
    flushes: Vec<u64>,
    /// Times of all harm, and of the end of each.
    faults: Vec<u64>,
    heals: Vec<u64>,
    secrets: Vec<String>,
    /// What a process held: before, after.
    usage: BTreeMap<u64, [Value; 2]>,
}

/// One after the other: there may be millions.
fn lines(folder: &Path, name: &str) -> io::Result<impl Iterator<Item = io::Result<Value>>> {
    let file = match std::fs::File::open(folder.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        file => Some(file?),
    };
    let lines = file.into_iter().flat_map(|file| BufReader::new(file).lines());
    // Who is killed while it writes leaves the beginning of a line.
    let read = |line: io::Result<String>| match serde_json::from_str(&line?) {
        Err(error) if error.is_eof() => Ok(None),
        line => Ok(Some(line?)),
    };
    Ok(lines.filter_map(move |line| read(line).transpose()))
}

fn text<'v>(line: &'v Value, name: &str) -> &'v str {
    line[name].as_str().unwrap_or_default()
}

fn number(line: &Value, name: &str) -> u64 {
    line[name].as_u64().unwrap_or_default()
}

/// A claim: its hand, its number.
fn fence(line: &Value) -> Option<(u64, u64)> {
    let fence = line["fence"].as_array()?;
    Some((fence.first()?.as_u64()?, fence.get(1)?.as_u64()?))
}

/// The state in which a job of this kind ends, and the starts that it takes.
fn expected(kind: &str) -> (&'static str, usize) {
    match kind {
        "die" | "panic" | "spin" | "poison" | "glutton" => ("dead", 1),
        // A job is dead with the third crash of its process.
        "abort" | "segfault" | "exit" | "become" | "close" | "garbage" | "half_frame" | "huge_frame" | "hunger" => {
            ("dead", 3)
        }
        "retry" | "snooze" => ("succeeded", 2),
        "storm" => ("succeeded", 3),
        _ => ("succeeded", 1),
    }
}

impl Done {
    fn read(folder: &Path) -> io::Result<Self> {
        let mut done = Self::default();
        for line in lines(folder, "done.jsonl")? {
            let line = line?;
            let (at, pid) = (number(&line, "at"), number(&line, "pid"));
            match text(&line, "what") {
                "kill" => done.kills.push((pid, at)),
                "freeze" => done.freezes.push((pid, at)),
                "interrupt" => done.interrupts.push((pid, at)),
                "flush" => done.flushes.push(at),
                "heal" => done.heals.push(at),
                "secret" => done.secrets.push(text(&line, "text").to_owned()),
                "usage" => {
                    let when = usize::from(text(&line, "when") == "after");
                    done.usage.entry(pid).or_default()[when] = line["of"].clone();
                }
                _ => {}
            }
            if ["kill", "freeze", "interrupt", "flush", "fault"].contains(&text(&line, "what")) {
                done.faults.push(at);
            }
        }
        Ok(done)
    }

    /// The processes that explain one more start of a job that they had begun, and when they were harmed.
    fn harmed(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.kills.iter().chain(&self.freezes).chain(&self.interrupts).copied()
    }

    /// What a process holds more than it may; it may hold a tenth more, and a little.
    fn grown(&self) -> impl Iterator<Item = String> + '_ {
        let grown = |pid: &u64, [before, after]: &[Value; 2], name: &str, little: u64| {
            let (before, after) = (before[name].as_u64()?, after[name].as_u64()?);
            (after > before + before / 10 + little)
                .then(|| format!("I10: {pid} held {before} {name}, and {after} when all was over"))
        };
        self.usage.iter().flat_map(move |(pid, both)| {
            let bounds = [("rss_kib", 32 << 10), ("files", 4), ("threads", 4)];
            bounds
                .map(|(name, little)| grown(pid, both, name, little))
                .into_iter()
                .flatten()
        })
    }
}

/// Which logs show what they must not.
fn seen_in_logs(folder: &Path, secrets: &[String]) -> io::Result<Vec<String>> {
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|kind| kind != "log") {
            continue;
        }
        let mut log = BufReader::new(std::fs::File::open(&path)?);
        let mut line = Vec::new();
        while log.read_until(b'\n', &mut line)? > 0 {
            let shown = String::from_utf8_lossy(&line);
            if let Some(secret) = secrets.iter().find(|secret| shown.contains(secret.as_str())) {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                seen.push(format!("I9: {name} shows {secret}: {}", shown.trim()));
                break;
            }
            line.clear();
        }
    }
    Ok(seen)
}

/// The longest time from one of `froms` to the first of `tos` after it; `None` when there is none.
fn longest(froms: &[u64], tos: &[u64]) -> Option<u64> {
    let mut tos = tos.to_vec();
    tos.sort_unstable();
    let next = |from: &u64| {
        let at = tos.partition_point(|to| to < from);
        tos.get(at).map(|to| to - from)
    };
    froms.iter().filter_map(next).max()
}

/// Judges; the numbers, with what is wrong in words under `wrong`.
pub(crate) fn check(folder: &Path) -> io::Result<Value> {
    let mut jobs: BTreeMap<String, Job> = BTreeMap::new();
    let (mut attempted, mut acknowledged, mut wrong) = (0, 0, Vec::new());
    let (mut oks, mut doubts) = (Vec::new(), Vec::new());
    for line in lines(folder, "produced.jsonl")? {
        let line = line?;
        let job = jobs.entry(text(&line, "id").to_owned()).or_default();
        match text(&line, "what") {
            "attempt" => {
                attempted += usize::from(job.kind.is_empty());
                text(&line, "kind").clone_into(&mut job.kind);
                job.n = number(&line, "n");
            }
            "ok" => {
                acknowledged += usize::from(!job.accepted);
                job.accepted = true;
                oks.push(number(&line, "at"));
            }
            "unknown" => doubts.push(number(&line, "at")),
            "rejected" => job.refused = true,
            "cancel" => job.cancel_asked = true,
            "cancelled" => job.cancelled = true,
            _ => {}
        }
    }
    let produced: BTreeSet<String> = jobs.keys().cloned().collect();
    let mut children: HashMap<String, String> = HashMap::new();
    for line in lines(folder, "ran.jsonl")? {
        let line = line?;
        let id = text(&line, "id").to_owned();
        let (pid, at) = (number(&line, "pid"), number(&line, "at"));
        let job = jobs.entry(id.clone()).or_default();
        let what = text(&line, "what");
        if ["end", "died", "failed", "snoozed"].contains(&what) {
            job.words.push((pid, at));
        }
        match what {
            "start" => {
                job.starts.push((pid, number(&line, "attempt"), at));
                job.newest = job.newest.max(fence(&line));
            }
            "died" => job.ends.push((pid, at)),
            "end" => {
                job.ends.push((pid, at));
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
    let done = Done::read(folder)?;
    let (mut left, mut orphans) = (Vec::new(), Vec::new());
    for line in lines(folder, "found.jsonl")? {
        let line = line?;
        match text(&line, "what") {
            "job" => {
                let job = jobs.entry(text(&line, "id").to_owned()).or_default();
                job.found
                    .push((text(&line, "state").to_owned(), line["result"].as_u64()));
                job.found_of.extend(fence(&line));
            }
            "left" => left.push(line["of"].clone()),
            "orphan" => orphans.push(line["of"].clone()),
            _ => {}
        }
    }

    // What the store forgot cannot be found in it, and may run again.
    let flushes = done.flushes.len();
    let (mut lost, mut stuck, mut extra, mut twice, mut dead, mut recovered, mut fenced) = (0, 0, 0, 0, 0, 0, 0);
    let mut forgotten = 0;
    let mut hit = BTreeSet::new();
    let mut again: Option<u64> = None;
    for (id, job) in &jobs {
        let mut say = |what: String| wrong.push(format!("{id} ({}): {what}", job.kind));
        if job.kind.is_empty() {
            say(format!(
                "I2: nobody enqueued it, and it started {} times",
                job.starts.len()
            ));
            continue;
        }
        if job.refused && !job.accepted {
            if !job.starts.is_empty() {
                say("I2: it was refused, and started".to_owned());
            }
            continue;
        }
        let known = job.accepted || !job.starts.is_empty();
        let (state, starts) = expected(&job.kind);
        let states: BTreeSet<&str> = job.found.iter().map(|(state, _)| state.as_str()).collect();
        recovered += usize::from(!job.accepted && !job.starts.is_empty());
        let state = if job.cancelled || (job.cancel_asked && states.contains("cancelled")) {
            "cancelled"
        } else {
            state
        };
        if known && job.starts.is_empty() && state != "cancelled" {
            lost += 1;
            say("I1: it was accepted and never started".to_owned());
        } else if flushes > 0
            && states
                .iter()
                .all(|state| !["succeeded", "dead", "cancelled", "expired"].contains(state))
        {
            // Gone from the store, or as an older copy of it has it.
            forgotten += 1;
            if job.ends.is_empty() {
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
        let unknown = flushes == 0 && states.contains("succeeded") && (results.is_empty() || job.found_of.is_empty());
        if state == "succeeded" && (unknown || results.iter().any(|result| *result != job.n * job.n)) {
            say(format!("I3: its result is {results:?}, of {}", job.n));
        }
        let older = job
            .found_of
            .iter()
            .find(|fence| job.newest.is_some_and(|newest| newest > **fence));
        if let Some((hand, claim)) = older.filter(|_| flushes == 0) {
            say(format!(
                "I3: its result is of hand {hand}, claim {claim}, and {:?} is newer",
                job.newest
            ));
        }
        dead += usize::from(states.contains("dead"));
        let harmed: Vec<u64> = done
            .harmed()
            .map(|(pid, _)| pid)
            .filter(|pid| job.starts.iter().any(|start| start.0 == *pid))
            .collect();
        let hits = |&(pid, at): &(u64, u64)| job.ran_at(pid, at, UNSETTLED);
        hit.extend(done.harmed().filter(hits).map(|(pid, _)| pid));
        extra += job.starts.len().saturating_sub(starts);
        twice += usize::from(job.starts.len() > starts);
        // An end of one that was killed may never have been told to anybody.
        let told = job
            .ends
            .iter()
            .filter(|(pid, _)| !done.kills.iter().any(|(killed, _)| killed == pid));
        fenced += told.count().saturating_sub(1);
        if job.starts.len() > starts + harmed.len() + flushes {
            let count = job.starts.len();
            say(format!("I4: it started {count} times, with {} kills", harmed.len()));
        }
        if let Some((_, attempt, _)) = job.starts.iter().find(|(_, attempt, _)| *attempt > 4) {
            say(format!("I5: attempt {attempt}"));
        }
        for (pid, at) in &done.kills {
            if job.ran_at(*pid, *at, 0) {
                let later = job.starts.iter().filter(|start| start.2 > *at);
                again = again.max(later.map(|start| start.2 - at).min());
            }
        }
    }
    wrong.extend(left.iter().map(|what| format!("I8: left behind: {what}")));
    wrong.extend(seen_in_logs(folder, &done.secrets)?);
    wrong.extend(done.grown());
    wrong.extend(orphans.iter().map(|what| format!("I10: it lives on: {what}")));
    // From the end of the harm, where it has one.
    let over = if done.heals.is_empty() {
        &done.faults
    } else {
        &done.heals
    };
    let mut successes: Vec<u64> = jobs.values().flat_map(|job| &job.ends).map(|(_, at)| *at).collect();
    let first_end = longest(over, &successes);
    successes.extend(&oks);
    Ok(json!({
        "attempted": attempted,
        "acknowledged": acknowledged,
        "unknown": produced.iter().filter(|id| jobs.get(*id).is_some_and(|job| !job.accepted && !job.refused)).count(),
        "refused": jobs.values().filter(|job| job.refused && !job.accepted).count(),
        "doubts": doubts.len(),
        "ok": jobs.values().filter(|job| job.found.iter().any(|(state, _)| state == "succeeded")).count(),
        "dead": dead,
        "recovered": recovered,
        "lost": lost,
        "stuck": stuck + left.len(),
        "duplicated": twice,
        "extra_executions": extra,
        "fenced": fenced,
        "forgotten": forgotten,
        "kills": done.kills.len(),
        "freezes": done.freezes.len(),
        "interrupts": done.interrupts.len(),
        "cancelled": jobs.values().filter(|job| job.found.iter().any(|(state, _)| state == "cancelled")).count(),
        "flushes": flushes,
        "kills_that_hit_running_jobs": hit.len(),
        "t_detect": longest(&done.faults, &doubts),
        "t_first_success": longest(over, &successes),
        "t_first_confirm": longest(over, &oks),
        "t_first_end": first_end,
        "t_run_again": again,
        "usage": done.usage,
        "wrong": wrong,
    }))
}
