//! The page of one job.

use std::fmt::Write;
use std::time::Duration;

use askama::Template;
use millhand_broker::JobView;
use millhand_proto::words::{bytes, clean, compact, human, plural};
use millhand_proto::{AttemptLog, AttemptNote, Codec, Payload, Progress, Receipt, State, Timestamp};

use crate::chart::{self, Phase, Svg};
use crate::icon::Icon;
use crate::say;

/// Characters of a value that are shown.
const SHOWN: usize = 4096;
/// Lines of a log that are shown.
const LOG_LINES: usize = 200;
/// Bytes that are shown of a value that is no text.
const HEX: usize = 64;

/// What is known of a job and lies beside its record.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    pub(crate) log: Option<AttemptLog>,
    /// How far it says it is, and when its worker told of it.
    pub(crate) progress: Option<(Progress, Timestamp)>,
}

/// A fact of a job: its name, and what it is.
struct Fact {
    name: &'static str,
    value: String,
    /// Whether it is shown as it would be copied.
    mono: bool,
}

/// An attempt that did not succeed.
struct Attempt {
    icon: Icon,
    number: u32,
    end: &'static str,
    /// Why its process crashed.
    cause: Option<String>,
    started: String,
    started_iso: String,
    ran: String,
    worker: String,
    error: Option<String>,
    next: Option<String>,
}

/// Arguments or a result.
struct Value {
    name: &'static str,
    text: String,
    note: String,
}

/// What the last attempt printed and said.
struct Log {
    note: String,
    text: String,
}

/// Where the time went.
struct Waterfall {
    svg: Svg,
    rows: Vec<(&'static str, String)>,
    /// What it was in all, and what is known beside its phases.
    note: String,
}

/// What is told of a job.
#[derive(Template)]
#[template(path = "job.html")]
pub(crate) struct Job {
    task: String,
    icon: Icon,
    state: State,
    sentence: String,
    facts: Vec<Fact>,
    attempts: Vec<Attempt>,
    receipt: Option<Waterfall>,
    log: Option<Log>,
    values: Vec<Value>,
}

impl Job {
    pub(crate) fn of(view: &JobView, beside: &Beside, now: Timestamp) -> Self {
        let entry = &view.entry;
        let mut values = Vec::new();
        values.extend(view.args.as_ref().map(|args| Value::of("Arguments", args)));
        values.extend(entry.result.as_ref().map(|result| Value::of("Result", result)));
        Self {
            task: entry.task.to_string(),
            icon: Icon::State(entry.state),
            state: entry.state,
            sentence: sentence(view, now),
            facts: facts(view, beside, now),
            attempts: entry.notes.iter().rev().map(Attempt::of).collect(),
            receipt: entry.receipt.as_ref().map(Waterfall::of),
            log: beside.log.as_ref().map(Log::of),
            values,
        }
    }
}

/// What happened to the job, in a sentence.
fn sentence(view: &JobView, now: Timestamp) -> String {
    let entry = &view.entry;
    let ago = |at: Option<Timestamp>| match at.map(|at| say::age(at, now)) {
        Some(age) if age != "now" => format!("{age} ago"),
        _ => "just now".into(),
    };
    let until = |at: Option<Timestamp>| {
        at.map_or_else(
            || "at a time that is not known".into(),
            |at| match at.since(now) {
                Duration::ZERO => "now".into(),
                span => format!("in {}", human(Duration::from_secs(span.as_secs().max(1)))),
            },
        )
    };
    let reason = entry.reason.as_deref();
    let reason = reason.map_or_else(|| "no reason is known".into(), |reason| clean(reason, false));
    let mut text = match entry.state {
        State::Scheduled => format!("Due {}.", until(entry.due)),
        State::Queued => {
            let since = entry.due.unwrap_or(entry.enqueued_at).max(entry.enqueued_at);
            format!("Waiting for a worker, {}.", say::age(since, now))
        }
        State::Running => {
            let since = entry
                .started
                .map_or_else(|| say::UNKNOWN.into(), |at| say::age(at, now));
            format!("Attempt {} runs, {since}.", entry.attempts + 1)
        }
        State::Retrying => format!(
            "Attempt {} failed; the next is due {}.",
            entry.attempts,
            until(entry.due)
        ),
        State::Succeeded => {
            let ran = entry
                .receipt
                .map(|r| format!(" in {}", human(Duration::from_micros(r.run))));
            let ran = ran.unwrap_or_default();
            format!(
                "Succeeded on attempt {}{ran}, {}.",
                entry.attempts.max(1),
                ago(entry.ended)
            )
        }
        State::Dead => format!(
            "Died after {}, {}: {reason}.",
            plural(entry.attempts.into(), "attempt"),
            ago(entry.ended)
        ),
        State::Cancelled => format!("Cancelled {}: {reason}.", ago(entry.ended)),
        State::Expired => format!("Expired {}: it was not started in time.", ago(entry.ended)),
    };
    if let Some(parked) = &entry.parked {
        let _ = write!(text, " Parked {} times: {}.", parked.times, clean(&parked.why, false));
    }
    if entry.cancel_asked.is_some() && !entry.state.is_ended() {
        text.push_str(" A cancel was asked for.");
    }
    text
}

fn facts(view: &JobView, beside: &Beside, now: Timestamp) -> Vec<Fact> {
    let entry = &view.entry;
    let mut facts = Vec::new();
    let mut fact = |name, value: Option<String>, mono| {
        facts.extend(value.map(|value| Fact { name, value, mono }));
    };
    let time = |at: Timestamp| {
        let (span, after) = (now.since(at), at.since(now));
        let near = if after.is_zero() { span } else { after };
        let near = human(Duration::from_secs(near.as_secs().max(1)));
        let near = if after.is_zero() {
            format!("{near} ago")
        } else {
            format!("in {near}")
        };
        format!("{} · {near}", say::date(at))
    };
    fact("Id", Some(view.id.to_string()), true);
    fact("Queue", Some(view.queue.to_string()), false);
    fact("Class", Some(view.class.to_string()), false);
    fact("Attempts", Some(entry.attempts.to_string()), false);
    fact("Enqueued", Some(time(entry.enqueued_at)), false);
    fact("Due", entry.due.map(time), false);
    fact("Expires", entry.expires.map(time), false);
    fact("Started", entry.started.map(time), false);
    fact("Ended", entry.ended.map(time), false);
    let progress = |(progress, told): (Progress, Timestamp)| {
        let ago = human(Duration::from_secs(now.since(told).as_secs().max(1)));
        format!("{progress} · told {ago} ago")
    };
    fact("Progress", beside.progress.map(progress), false);
    fact("Worker", entry.owner.map(|worker| worker.to_string()), true);
    fact(
        "Reason",
        entry.reason.as_deref().map(|reason| clean(reason, false)),
        false,
    );
    let tags: Vec<_> = entry.tags.iter().map(|tag| clean(tag, false)).collect();
    fact("Tags", (!tags.is_empty()).then(|| tags.join(", ")), false);
    let some = |number: u32| (number > 0).then(|| number.to_string());
    fact("Worker deaths", some(entry.deaths), false);
    fact("Crashes", some(entry.crashes), false);
    fact("Copies with other arguments", some(entry.conflicts), false);
    facts
}

impl Attempt {
    fn of(note: &AttemptNote) -> Self {
        Self {
            icon: Icon::of_attempt(note.end),
            number: note.number,
            end: match note.end {
                millhand_proto::AttemptEnd::TimedOut => "timed out",
                millhand_proto::AttemptEnd::WorkerLost => "worker lost",
                end => end.as_str(),
            },
            cause: note.cause.as_ref().map(|cause| clean(&cause.replace('_', " "), false)),
            started: say::date(note.started),
            started_iso: say::iso(note.started),
            ran: human(note.ended.since(note.started)),
            worker: note.worker.to_string(),
            error: note.error.as_ref().map(|error| clean(error.as_str(), true)),
            next: note.next.map(|next| human(next.since(note.ended))),
        }
    }
}

impl Waterfall {
    fn of(receipt: &Receipt) -> Self {
        let class = |name| match name {
            "run" => "run",
            "queue" | "room" => "waiting",
            _ => "overhead",
        };
        let phases: Vec<_> = receipt
            .phases()
            .into_iter()
            .map(|(name, micros)| Phase {
                name,
                micros,
                class: class(name),
            })
            .collect();
        let span = |micros| human(Duration::from_micros(micros));
        let whole = phases.iter().fold(0u64, |sum, phase| sum.saturating_add(phase.micros));
        let beside = [
            (receipt.cpu.map(span), "of it on a processor"),
            (receipt.start.map(span), "for the start of its process"),
            (receipt.blocked.map(span), "at most without an await"),
            (receipt.peak.map(bytes), "of memory at its peak"),
        ];
        let mut note = format!("last attempt, {} in all", span(whole));
        for (value, what) in beside {
            if let Some(value) = value {
                let _ = write!(note, ", {value} {what}");
            }
        }
        Self {
            svg: chart::waterfall("Where the last attempt's time went", &phases),
            rows: phases.iter().map(|phase| (phase.name, span(phase.micros))).collect(),
            note,
        }
    }
}

impl Log {
    fn of(log: &AttemptLog) -> Self {
        let from = log.lines.len().saturating_sub(LOG_LINES);
        let mut text = String::new();
        for line in &log.lines[from..] {
            let when = format!("+{}", compact(line.after()));
            let source = line.source.as_str();
            let _ = writeln!(text, "{when:>9}  {source:<4}  {}", clean(&line.text, false));
        }
        let older = log.dropped + from as u64;
        let note = if older == 0 {
            format!("attempt {}", log.attempt)
        } else {
            format!(
                "attempt {}, its newest {}; millhand job log prints what else is kept",
                log.attempt,
                plural(log.lines[from..].len() as u64, "line")
            )
        };
        Self { note, text }
    }
}

impl Value {
    fn of(name: &'static str, payload: &Payload) -> Self {
        let size = bytes(payload.bytes.len() as u64);
        let codec = match payload.codec {
            Codec::Json => "JSON",
            Codec::MessagePack => "MessagePack",
        };
        match payload.to_json() {
            Ok(json) => {
                let whole = indent(&json);
                let text: String = whole.chars().take(SHOWN).collect();
                let cut = if text.len() < whole.len() {
                    format!(", the first {SHOWN} characters of it")
                } else {
                    String::new()
                };
                Self {
                    name,
                    text: clean(&text, true),
                    note: format!("{size} of {codec}{cut}"),
                }
            }
            Err(error) => {
                let mut text = String::new();
                for (at, byte) in payload.bytes.iter().take(HEX).enumerate() {
                    let gap = if at % 16 == 15 { "\n" } else { " " };
                    let _ = write!(text, "{byte:02x}{gap}");
                }
                let error = clean(&error.to_string(), false);
                Self {
                    name,
                    text,
                    note: format!("{size} of {codec} that cannot be shown as JSON ({error}); its first bytes"),
                }
            }
        }
    }
}

/// JSON text with a line for each part. Its digits stay as they are: a decoder would change big
/// numbers. Only as much is taken as can be shown.
fn indent(json: &str) -> String {
    let mut text = String::new();
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    let line = |text: &mut String, depth: usize| {
        text.push('\n');
        text.extend(std::iter::repeat_n("  ", depth));
    };
    let mut rest = json.chars().peekable();
    while let Some(c) = rest.next() {
        if text.len() > SHOWN * 4 {
            break;
        }
        if quoted {
            text.push(c);
            quoted = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            continue;
        }
        match c {
            '"' => {
                text.push(c);
                quoted = true;
            }
            '{' | '[' => {
                text.push(c);
                while rest.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                if let Some(end) = rest.next_if(|c| matches!(c, '}' | ']')) {
                    text.push(end);
                } else {
                    depth += 1;
                    line(&mut text, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut text, depth);
                text.push(c);
            }
            ',' => {
                text.push(c);
                line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            _ if c.is_ascii_whitespace() => {}
            _ => text.push(c),
        }
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use millhand_broker::memory::Memory;
    use millhand_client::Client;
    use millhand_proto::{LogLine, LogSource, Task};

    use super::*;

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Nothing;

    impl Task for Nothing {
        const NAME: &'static str = "nothing";
        type Output = ();
    }

    /// A dead job with this reason, which only a stranger can have written.
    pub(crate) async fn dead(reason: &str) -> JobView {
        let client = Client::new(Memory::open().unwrap());
        let id = client.enqueue(Nothing).await.unwrap().id();
        let mut view = client.get(id).await.unwrap().unwrap();
        view.entry.state = State::Dead;
        view.entry.reason = Some(reason.into());
        view
    }

    #[tokio::test]
    async fn a_reason_cannot_turn_the_text_around() {
        let mut view = dead("a\u{202e}b\u{7}").await;
        for state in [State::Dead, State::Cancelled] {
            view.entry.state = state;
            let page = Job::of(&view, &Beside::default(), view.entry.enqueued_at)
                .render()
                .unwrap();
            assert!(!page.contains(['\u{202e}', '\u{7}']), "{page}");
        }
    }

    #[tokio::test]
    async fn a_crash_says_its_cause() {
        let mut view = dead("no").await;
        let at = view.entry.enqueued_at;
        let mut note = AttemptNote {
            number: 1,
            started: at,
            ended: at,
            end: millhand_proto::AttemptEnd::Crashed,
            cause: Some("memory_limit".into()),
            error: None,
            worker: millhand_proto::WorkerId::from_bytes([7; 16]),
            next: None,
        };
        view.entry.notes.push(note.clone());
        note.cause = Some("<b>\u{202e}".into());
        view.entry.notes.push(note);
        let page = Job::of(&view, &Beside::default(), at).render().unwrap();
        assert!(page.contains("crashed (<bdi>memory limit</bdi>) after"), "{page}");
        assert!(!page.contains("<b>") && !page.contains('\u{202e}'), "{page}");
    }

    #[test]
    fn a_receipt_says_what_is_known_beside_its_phases() {
        let mut receipt = Receipt {
            run: 600_000,
            ..Receipt::default()
        };
        assert_eq!(Waterfall::of(&receipt).note, "last attempt, 600 ms in all");
        receipt.cpu = Some(480_000);
        receipt.start = Some(39_500);
        receipt.blocked = Some(43_000);
        receipt.peak = Some(48 << 20);
        assert_eq!(
            Waterfall::of(&receipt).note,
            "last attempt, 600 ms in all, 480 ms of it on a processor, 39.5 ms for the start of its process, \
             43.0 ms at most without an await, 48.0 MiB of memory at its peak"
        );
    }

    #[tokio::test]
    async fn a_log_is_shown_escaped_and_bounded() {
        let view = dead("no").await;
        let line = |n: usize| LogLine {
            after: 1_500_000,
            source: LogSource::Err,
            text: format!("<script>{n}</script>\u{202e}\u{7}"),
        };
        let log = AttemptLog {
            attempt: 3,
            lines: (0..LOG_LINES + 5).map(line).collect(),
            dropped: 0,
        };
        let progress = Some((Progress { done: 4, total: 10 }, view.entry.enqueued_at));
        let beside = Beside {
            log: Some(log),
            progress,
        };
        let page = Job::of(&view, &beside, view.entry.enqueued_at).render().unwrap();
        assert!(
            !page.contains(['\u{202e}', '\u{7}']) && !page.contains("<script>"),
            "{page}"
        );
        assert_eq!(page.matches("+1.50s").count(), LOG_LINES);
        assert!(page.contains(&format!("{}&#60;", LOG_LINES + 4)), "the newest: {page}");
        assert!(page.contains("4 of 10 (40 %)"), "{page}");
        let silent = Job::of(&view, &Beside::default(), view.entry.enqueued_at)
            .render()
            .unwrap();
        assert!(!silent.contains("h-log"), "{silent}");
    }

    #[test]
    fn json_gets_lines_and_keeps_its_digits() {
        let text = indent(r#"{"n":12345678901234567890123, "t": "a,{\"b\"}" ,"e":[],"l":[1,{}]}"#);
        let want = "{\n  \"n\": 12345678901234567890123,\n  \"t\": \"a,{\\\"b\\\"}\",\n  \"e\": [],\n  \"l\": [\n    1,\n    {}\n  ]\n}";
        assert_eq!(text, want);
        assert!(indent(&"[".repeat(2000)).len() < SHOWN * 4 + 5000);
    }

    #[test]
    fn a_value_that_is_no_json_is_shown_as_bytes_and_a_long_one_is_cut() {
        let broken = Payload {
            codec: Codec::MessagePack,
            bytes: vec![0xc1, 0x00, 0xff].into(),
        };
        let value = Value::of("Result", &broken);
        assert!(value.text.starts_with("c1 00 ff"), "{}", value.text);
        assert!(
            value.note.starts_with("3 B of MessagePack that cannot be shown"),
            "{}",
            value.note
        );
        let long = Payload::encode(&"x".repeat(10_000)).unwrap();
        let value = Value::of("Result", &long);
        assert_eq!(value.text.chars().count(), SHOWN);
        assert!(value.note.contains("the first 4096 characters"), "{}", value.note);
        let odd = Payload::encode("a\u{202e}b\u{7}").unwrap();
        assert!(!Value::of("Result", &odd).text.contains(['\u{202e}', '\u{7}']));
    }
}
