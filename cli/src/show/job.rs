//! One job: what it is about, its facts, attempts, receipt, log and values.

use std::fmt::Write as _;
use std::time::Duration;

use millhand_broker::JobView;
use millhand_proto::{AttemptNote, Payload, Receipt, State, Timestamp, words};

use super::{log, sentence};
use crate::output::{Ink, Style, bytes, clean, plural, shorten};
use crate::times::{human, rfc3339};
use crate::views::{Beside, raw, tries};

/// Characters of arguments and of a result that are shown.
const VALUE_CHARS: usize = 2_000;
/// Lines of a log that are shown with its job.
const LOG_LINES: usize = 10;
/// Cells of the widest bar of a receipt.
const BAR: u32 = 30;

/// One job.
pub(crate) fn job(view: &JobView, beside: &Beside, now: Timestamp, style: Style) -> String {
    let entry = &view.entry;
    let mut out = String::new();
    let _ = writeln!(out, "{}  {}  {}", style.state(entry.state), entry.task, view.id);
    let _ = writeln!(out, "{}\n", sentence(view, now));
    facts(&mut out, view, beside, now, style);
    attempts(&mut out, view, style);
    if let Some(receipt) = &entry.receipt {
        receipt_bars(&mut out, receipt, style);
    }
    if let Some(log) = &beside.log {
        let shown = log.lines.len().min(LOG_LINES);
        let title = match shown == log.lines.len() && log.dropped == 0 {
            true => format!("Log of attempt {}", log.attempt),
            false => format!(
                "Log of attempt {}, its end; millhand job log {} prints it",
                log.attempt, view.id
            ),
        };
        let _ = writeln!(out, "\n{}", style.paint(Ink::Bold, &title));
        indented(&mut out, &self::log(log, shown, style));
    }
    value(&mut out, "Arguments", view.args.as_ref(), style);
    value(&mut out, "Result", entry.result.as_ref(), style);
    out
}

fn facts(out: &mut String, view: &JobView, beside: &Beside, now: Timestamp, style: Style) {
    let entry = &view.entry;
    let mut fact = |name: &str, text: String| {
        let _ = writeln!(out, "  {} {text}", style.paint(Ink::Dim, &format!("{name:<10}")));
    };
    let at = |time: Timestamp| {
        if time > now {
            format!("{} (in {})", rfc3339(time), human(time.since(now)))
        } else {
            format!("{} ({} ago)", rfc3339(time), human(now.since(time)))
        }
    };
    fact("queue", view.queue.to_string());
    fact("class", view.class.to_string());
    fact("enqueued", at(entry.enqueued_at));
    let times = [
        ("due", entry.due),
        ("expires", entry.expires.filter(|_| !entry.state.is_ended())),
        ("started", entry.started),
        ("ended", entry.ended),
        ("cancel", entry.cancel_asked),
    ];
    for (name, time) in times {
        if let Some(time) = time {
            fact(name, at(time));
        }
    }
    if let Some((progress, told)) = beside.progress {
        fact("progress", format!("{progress}, told {} ago", human(now.since(told))));
    }
    if let Some(owner) = entry.owner {
        fact("worker", owner.to_string());
    }
    if !entry.tags.is_empty() {
        fact("tags", clean(&entry.tags.join(", "), false));
    }
    if let Some(parked) = &entry.parked {
        fact(
            "parked",
            format!(
                "{} since {}",
                plural(parked.times.into(), "time"),
                rfc3339(parked.since)
            ),
        );
    }
    if entry.deaths > 0 {
        fact(
            "deaths",
            format!("{} died under it", plural(entry.deaths.into(), "worker")),
        );
    }
    if entry.crashes > 0 {
        fact(
            "crashes",
            format!("its process crashed {}", plural(entry.crashes.into(), "time")),
        );
    }
    if entry.conflicts > 0 {
        let copies = if entry.conflicts == 1 {
            "1 copy".into()
        } else {
            format!("{} copies", entry.conflicts)
        };
        fact("conflict", format!("{copies} of this id came with other arguments"));
    }
}

fn attempts(out: &mut String, view: &JobView, style: Style) {
    let entry = &view.entry;
    if entry.notes.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{}", style.paint(Ink::Bold, "Attempts"));
    let mut line = |number: u32, end: &str, ink: Ink, started: Timestamp, rest: String| {
        let end = style.paint(ink, &format!("{end:<11}"));
        let _ = writeln!(out, "  {number:>3}  {end}  {}  {rest}", rfc3339(started));
    };
    let run = |note: &AttemptNote| human(note.ended.since(note.started));
    let mut errors = Vec::new();
    for note in &entry.notes {
        let cause = match &note.cause {
            Some(cause) => format!(", cause {}", clean(cause, false)),
            None => String::new(),
        };
        let next = match note.next {
            Some(next) => format!(", next after {}", human(next.since(note.ended))),
            None => String::new(),
        };
        line(
            note.number,
            note.end.as_str(),
            Ink::Red,
            note.started,
            format!("ran {}{cause}{next}", run(note)),
        );
        if let Some(error) = &note.error {
            errors.push((note.number, error.as_str()));
        }
    }
    if let (State::Succeeded, Some(started)) = (entry.state, entry.started) {
        let ran = entry
            .receipt
            .map(|r| format!("ran {}", human(Duration::from_micros(r.run))))
            .unwrap_or_default();
        line(entry.attempts, "succeeded", Ink::Green, started, ran);
    } else if let (State::Running, Some(started)) = (entry.state, entry.started) {
        line(tries(view), "running", Ink::Blue, started, String::new());
    }
    // The same error again and again is told once.
    errors.reverse();
    let mut told: Vec<(&str, Vec<u32>)> = Vec::new();
    for (number, error) in errors {
        match told.iter_mut().find(|(e, _)| *e == error) {
            Some((_, numbers)) => numbers.insert(0, number),
            None => told.push((error, vec![number])),
        }
    }
    for (error, numbers) in told {
        let which = if numbers.len() == 1 { "attempt" } else { "attempts" };
        let numbers: Vec<_> = numbers.iter().map(u32::to_string).collect();
        let title = format!("Error of {which} {}", numbers.join(", "));
        let _ = writeln!(out, "\n{}", style.paint(Ink::Bold, &title));
        indented(out, &clean(error.trim_end(), true));
    }
}

fn indented(out: &mut String, text: &str) {
    for line in text.lines() {
        let _ = writeln!(out, "{}", format!("  {line}").trim_end());
    }
}

fn receipt_bars(out: &mut String, receipt: &Receipt, style: Style) {
    let whole = receipt.whole();
    let title = format!("Receipt of the last attempt, {}", human(Duration::from_micros(whole)));
    let _ = writeln!(out, "\n{}", style.paint(Ink::Bold, &title));
    for (name, micros) in receipt.phases() {
        // Microseconds of one job fit into the 52 bits of a float by far.
        let secs = |micros| Duration::from_micros(micros).as_secs_f64();
        let share = if whole == 0 { 0.0 } else { secs(micros) / secs(whole) };
        let bar = style.paint(if name == "run" { Ink::Blue } else { Ink::Dim }, &style.bar(share, BAR));
        let span = human(Duration::from_micros(micros));
        let _ = writeln!(
            out,
            "{}",
            format!("  {name:<8}  {span:>11}  {:>5.1} %  {bar}", share * 100.0).trim_end()
        );
        let span = |micros: Option<u64>| micros.map(|micros| human(Duration::from_micros(micros)));
        let parts = match name {
            "dispatch" => vec![("start", span(receipt.start))],
            "run" => vec![
                ("cpu", span(receipt.cpu)),
                ("blocked", span(receipt.blocked)),
                ("peak", receipt.peak.map(words::bytes)),
            ],
            _ => Vec::new(),
        };
        for (part, value) in parts {
            if let Some(value) = value {
                let _ = writeln!(out, "    {part:<7} {value:>11}");
            }
        }
    }
}

fn value(out: &mut String, title: &str, payload: Option<&Payload>, style: Style) {
    let Some(payload) = payload else { return };
    let (text, size) = match raw(payload) {
        Ok(json) => (json.get().to_owned(), payload.bytes.len()),
        Err(error) => (format!("cannot be shown: {error}"), payload.bytes.len()),
    };
    let _ = writeln!(
        out,
        "\n{}",
        style.paint(Ink::Bold, &format!("{title}, {}", bytes(size)))
    );
    indented(out, &shorten(&clean(&text, false), VALUE_CHARS));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, NOW};
    use crate::show::{PLAIN, log_coverage};

    #[test]
    fn a_job_that_failed_twice_and_then_succeeded() {
        insta::assert_snapshot!(job(&fixture::third_time_lucky(), &Beside::default(), NOW, PLAIN), @r#"
        ✓ succeeded  wordcount  01c0dd47-c4d5-8000-8000-000000000400
        Succeeded at attempt 3, 50.0 s after it was enqueued.

          queue      default
          class      normal
          enqueued   2031-02-03T04:03:36.789Z (1 min 30 s ago)
          started    2031-02-03T04:04:25.789Z (41.0 s ago)
          ended      2031-02-03T04:04:26.789Z (40.0 s ago)
          worker     07070707-0707-0707-0707-070707070707
          tags       blue, \u{1b}[31mred

        Attempts
            1  failed       2031-02-03T04:03:37.789Z  ran 1.20 s, next after 12.0 s
            2  timed_out    2031-02-03T04:03:51.789Z  ran 1.20 s, next after 25.0 s
            3  succeeded    2031-02-03T04:04:25.789Z  ran 600 ms

        Error of attempt 2
          no route to host
            at \u{7}line 2

        Error of attempt 1
          no route to host

        Receipt of the last attempt, 948 ms
          enqueue       1.20 ms    0.1 %
          queue          300 ms   31.6 %  █████████▌
          fetch           90 µs    0.0 %
          room           812 µs    0.1 %
          claim         4.80 ms    0.5 %  ▏
          dispatch      41.0 ms    4.3 %  █▎
            start       39.5 ms
          run            600 ms   63.3 %  ███████████████████
            cpu          480 ms
            blocked     43.0 ms
            peak       48.0 MiB
          encode          35 µs    0.0 %

        Result, 8 bytes
          ["three",3]
        "#);
    }

    #[test]
    fn a_dead_job() {
        insta::assert_snapshot!(job(&fixture::dead(), &Beside::default(), NOW, PLAIN), @r#"
        ✗ dead  mail.send  01c0dcd9-c0c5-8000-8000-000000000800
        Dead after 2 attempts (retries_exhausted), 5 min 02 s after it was enqueued.

          queue      default
          class      normal
          enqueued   2031-02-03T02:03:26.789Z (2 h 01 min ago)
          started    2031-02-03T02:08:26.789Z (1 h 56 min ago)
          ended      2031-02-03T02:08:28.789Z (1 h 56 min ago)
          crashes    its process crashed 1 time
          conflict   2 copies of this id came with other arguments

        Attempts
            1  failed       2031-02-03T02:06:46.789Z  ran 1.20 s, next after 1 min 30 s
            2  crashed      2031-02-03T02:08:26.789Z  ran 1.20 s, cause SIGSEGV\u{1b}

        Error of attempt 2
          signal 11

        Error of attempt 1
          mailbox full

        Arguments, 48 bytes
          {"n": 2,  "big": 123456789012345678901234567890}
        "#);
    }

    #[test]
    fn a_log_and_progress() {
        let beside = fixture::beside();
        let text = job(&fixture::dead(), &beside, NOW, PLAIN);
        assert!(
            text.contains("\n  progress   42 of 100 (42 %), told 3.00 s ago\n"),
            "{text}"
        );
        let from = text.find("Log of").unwrap();
        let to = text.find("\nArguments").unwrap();
        insta::assert_snapshot!(text[from..to], @r"
        Log of attempt 2, its end; millhand job log 01c0dcd9-c0c5-8000-8000-000000000800 prints it
             +200ms  said  line 3\u{1b}[31m
             +300ms  out   line 4\u{1b}[31m
             +400ms  err   line 5\u{1b}[31m
             +500ms  said  line 6\u{1b}[31m
             +600ms  out   line 7\u{1b}[31m
             +700ms  err   line 8\u{1b}[31m
             +800ms  said  line 9\u{1b}[31m
             +900ms  out   line 10\u{1b}[31m
             +1.00s  err   line 11\u{1b}[31m
             +1.10s  said  line 12\u{1b}[31m
        ");
        let all = log(beside.log.as_ref().unwrap(), usize::MAX, PLAIN);
        assert_eq!(all.lines().count(), 12);
        let note = log_coverage(beside.log.as_ref().unwrap());
        assert_eq!(
            note,
            "attempt 2, 12 lines; 3 older lines were dropped: the newest 64.0 KiB are kept"
        );
    }

    #[test]
    fn colours_add_to_words() {
        let text = job(
            &fixture::dead(),
            &Beside::default(),
            NOW,
            Style {
                color: true,
                ascii: false,
                width: None,
            },
        );
        assert!(text.starts_with("\x1b[31m✗ dead\x1b[0m  mail.send"), "{text}");
        let plain: String = text
            .split("\x1b[")
            .map(|p| p.split_once('m').map_or(p, |(_, rest)| rest))
            .collect();
        assert_eq!(
            plain.lines().count(),
            job(&fixture::dead(), &Beside::default(), NOW, PLAIN).lines().count()
        );
    }
}
