//! What is printed: where, how wide, in which colours.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead, ErrorKind, IsTerminal, Write};
use std::time::{Duration, Instant};

use millhand_proto::State;
use millhand_proto::words;
pub(crate) use millhand_proto::words::{clean, grouped, plural};
use serde::Serialize;

use crate::args::{Color, Format, Global};
use crate::exit::{Exit, Failure, Outcome};
use crate::times;

/// How text is drawn.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Style {
    pub(crate) color: bool,
    pub(crate) ascii: bool,
    /// Columns of the terminal, where there is one.
    pub(crate) width: Option<usize>,
}

/// The few colours, of the sixteen that every terminal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ink {
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Blue,
}

impl Style {
    /// Text in a colour, where colours are wanted.
    pub(crate) fn paint(self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Plain => return text.to_owned(),
            Ink::Bold => "1",
            Ink::Dim => "2",
            Ink::Red => "31",
            Ink::Green => "32",
            Ink::Yellow => "33",
            Ink::Blue => "34",
        };
        if self.color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// A state's symbol and word: colour only adds to them.
    pub(crate) fn state(self, state: State) -> String {
        let (symbol, ascii, ink) = match state {
            State::Scheduled => ("◌", "~", Ink::Plain),
            State::Queued => ("○", "o", Ink::Plain),
            State::Running => ("▶", ">", Ink::Blue),
            State::Retrying => ("↻", "r", Ink::Yellow),
            State::Succeeded => ("✓", "+", Ink::Green),
            State::Dead => ("✗", "x", Ink::Red),
            State::Cancelled => ("■", "#", Ink::Dim),
            State::Expired => ("□", "-", Ink::Dim),
        };
        self.paint(ink, &format!("{} {state}", if self.ascii { ascii } else { symbol }))
    }

    /// A bar of `share` (0 to 1) of `width` cells, in eighths of a cell.
    pub(crate) fn bar(self, share: f64, width: u32) -> String {
        // 0 to 1 times a small width: always a small whole number.
        let eighths = (share.clamp(0.0, 1.0) * f64::from(width) * 8.0).round();
        let cells = |n: u32| f64::from(n) * 8.0 <= eighths;
        let full = (1..=width).take_while(|n| cells(*n)).count();
        if self.ascii {
            return "#".repeat(full);
        }
        let rest = eighths - f64::from(u32::try_from(full).unwrap_or(0)) * 8.0;
        let part = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];
        let part = part
            .iter()
            .zip(1u32..)
            .filter(|(_, n)| f64::from(*n) <= rest)
            .map(|(c, _)| *c)
            .last();
        "█".repeat(full) + &part.map(String::from).unwrap_or_default()
    }
}

/// Where the program speaks.
#[derive(Debug)]
pub(crate) struct Ui {
    pub(crate) format: Format,
    pub(crate) style: Style,
    pub(crate) asks: bool,
    err_terminal: bool,
}

impl Ui {
    pub(crate) fn new(global: &Global) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let forced = std::env::var_os("CLICOLOR_FORCE").is_some_and(|v| !v.is_empty() && v != "0");
        let dumb = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        let color = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => !set("NO_COLOR") && (forced || (io::stdout().is_terminal() && !dumb)),
        };
        Self {
            format: global.format(),
            style: Style {
                color,
                ascii: global.ascii,
                width: width(),
            },
            // Who reads JSON is a program, and a program answers no questions.
            asks: global.format() == Format::Text && io::stdin().is_terminal() && io::stderr().is_terminal(),
            err_terminal: io::stderr().is_terminal(),
        }
    }

    /// Prints data.
    pub(crate) fn print(&self, text: &str) -> Outcome<()> {
        let mut out = io::stdout().lock();
        let ended = if text.is_empty() || text.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        let written = out
            .write_all(text.as_bytes())
            .and_then(|()| out.write_all(ended.as_bytes()));
        match written.and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::closed_pipe()),
            Err(error) => Err(Failure::new(
                Exit::Failed,
                "output",
                format!("standard output: {error}"),
            )),
        }
    }

    /// Prints one JSON document.
    pub(crate) fn document<T: Serialize>(&self, value: &T) -> Outcome<()> {
        self.print(&to_json(value)?)
    }

    /// Prints one item a line.
    pub(crate) fn lines<T: Serialize>(&self, items: &[T]) -> Outcome<()> {
        let mut text = String::new();
        for item in items {
            text.push_str(&to_json(item)?);
            text.push('\n');
        }
        self.print(&text)
    }

    /// Says something beside the data.
    pub(crate) fn note(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Says why the command ended early.
    pub(crate) fn fail(&self, failure: &Failure) {
        if failure.message.is_empty() {
            return;
        }
        match self.format {
            Format::Text => self.note(&failure.to_string()),
            Format::Json | Format::Jsonl => self.note(&failure.to_json()),
        }
    }

    /// Asks; only a plain yes is one.
    pub(crate) fn ask(&self, question: &str) -> Outcome<String> {
        let mut err = io::stderr().lock();
        let _ = write!(err, "{question} ");
        let _ = err.flush();
        drop(err);
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        read.map_err(|e| Failure::new(Exit::NotConfirmed, "not_confirmed", format!("standard input: {e}")))?;
        Ok(line.trim().to_owned())
    }

    /// A line that shows how far a long act is.
    pub(crate) fn progress(&self, verb: &'static str, total: Option<usize>) -> Progress {
        let now = Instant::now();
        let quiet = self.format != Format::Text;
        Progress {
            verb,
            total,
            started: now,
            shown: None,
            terminal: self.err_terminal,
            quiet,
        }
    }
}

fn to_json<T: Serialize>(value: &T) -> Outcome<String> {
    serde_json::to_string(value).map_err(|e| Failure::new(Exit::Failed, "output", e.to_string()))
}

/// A progress line on standard error: in place on a terminal, a line every 10 s elsewhere.
#[derive(Debug)]
pub(crate) struct Progress {
    verb: &'static str,
    total: Option<usize>,
    started: Instant,
    shown: Option<Instant>,
    terminal: bool,
    quiet: bool,
}

impl Progress {
    pub(crate) fn at(&mut self, done: usize) {
        let (first, every) = if self.terminal { (500, 100) } else { (10_000, 10_000) };
        let since = self.shown.map_or(self.started.elapsed(), |s| s.elapsed());
        let wait = if self.shown.is_some() { every } else { first };
        if self.quiet || since < Duration::from_millis(wait) {
            return;
        }
        self.shown = Some(Instant::now());
        let line = progress_line(self.verb, done, self.total, self.started.elapsed());
        let mut err = io::stderr().lock();
        let _ = if self.terminal {
            write!(err, "\r\x1b[K{line}")
        } else {
            writeln!(err, "{line}")
        };
        let _ = err.flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && self.shown.is_some() {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

fn progress_line(verb: &str, done: usize, total: Option<usize>, elapsed: Duration) -> String {
    let count = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    let rate = count(done) / elapsed.as_secs_f64().max(1e-3);
    let mut line = format!("{verb} {}", grouped(done as u64));
    if let Some(total) = total {
        let _ = write!(line, "/{}", grouped(total as u64));
    }
    let _ = write!(line, "  {rate:.0}/s");
    if let Some(total) = total.filter(|t| *t > done && rate >= 1.0) {
        let left = Duration::from_secs_f64(count(total - done) / rate);
        let _ = write!(line, ", {} left", times::human(left));
    }
    line
}

/// The start of a text, with what was left out said.
pub(crate) fn shorten(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}… ({} in all)", &text[..end], bytes(text.len())),
    }
}

/// `812 bytes`, `4.2 KiB`.
pub(crate) fn bytes(count: usize) -> String {
    match count as u64 {
        few @ 0..1024 => plural(few, "byte"),
        many => words::bytes(many),
    }
}

/// Columns with a header; numbers to the right.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// What stands in a table: its text as drawn, and its width without colours.
#[derive(Debug)]
pub(crate) struct Cell {
    text: String,
    width: usize,
}

impl Cell {
    pub(crate) fn painted(text: String, plain: &str) -> Self {
        Self {
            text,
            width: plain.chars().count(),
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        let text = text.into();
        let width = text.chars().count();
        Self { text, width }
    }
}

impl Table {
    pub(crate) fn new(header: &[(&'static str, Align)]) -> Self {
        Self {
            header: header.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub(crate) fn render(&self, style: Style) -> String {
        let mut widths: Vec<usize> = self.header.iter().map(|(title, _)| title.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width);
            }
        }
        let shown = fitting(&widths, style.width);
        let mut out = String::new();
        let titles: Vec<Cell> = self
            .header
            .iter()
            .map(|(t, _)| Cell::painted(style.paint(Ink::Bold, t), t))
            .collect();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let mut line = String::new();
            for (at, ((cell, width), (_, align))) in row.iter().zip(&widths).zip(&self.header).take(shown).enumerate() {
                let pad = " ".repeat(width - cell.width);
                if at > 0 {
                    line.push_str("  ");
                }
                match align {
                    Align::Left => line.extend([cell.text.as_str(), &pad]),
                    Align::Right => line.extend([&pad, cell.text.as_str()]),
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Columns of the terminal that standard output goes to.
fn width() -> Option<usize> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let set = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
    let asked = || {
        rustix::termios::tcgetwinsize(&out)
            .ok()
            .map(|size| usize::from(size.ws_col))
    };
    set.or_else(asked).filter(|columns| *columns > 0)
}

/// How many columns of a table fit: those at the right are dropped, the first three never.
fn fitting(widths: &[usize], width: Option<usize>) -> usize {
    let Some(width) = width else { return widths.len() };
    let mut taken = 0;
    let fits = widths.iter().enumerate().take_while(|(at, column)| {
        taken += *column + if *at > 0 { 2 } else { 0 };
        *at < 3 || taken <= width
    });
    fits.count()
}

/// How many of each, most first: `3 dead, 1 expired`.
pub(crate) fn tally<K: Ord + std::fmt::Display>(keys: impl IntoIterator<Item = K>) -> String {
    let mut counts: BTreeMap<K, u64> = BTreeMap::new();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let shown: Vec<_> = counts
        .iter()
        .take(5)
        .map(|(key, count)| format!("{} {key}", grouped(*count)))
        .collect();
    let more = counts.len().saturating_sub(5);
    let more = if more > 0 {
        format!(", and {more} more")
    } else {
        String::new()
    };
    shown.join(", ") + &more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_elsewhere_cannot_speak_to_the_terminal() {
        assert_eq!(clean("a\x1b[31m\u{202e}b\nc\r", false), "a\\u{1b}[31m\\u{202e}b\\nc\\r");
        assert_eq!(clean("a\n\tb\x07", true), "a\n    b\\u{7}");
        assert_eq!(shorten("äöü", 3), "äöü");
        assert_eq!(shorten("äöüß", 3), "äöü… (8 bytes in all)");
    }

    #[test]
    fn bars_tables_and_counts() {
        let style = Style::default();
        insta::assert_snapshot!(style.bar(0.5, 5), @"██▌");
        assert_eq!(style.bar(0.0, 5), "");
        assert_eq!(style.bar(2.0, 5), "█████");
        assert_eq!(Style { ascii: true, ..style }.bar(0.5, 5), "##");
        assert_eq!(tally(["b", "a", "b"]), "2 b, 1 a");
        assert_eq!(grouped(1_234_567), "1,234,567");
        let mut table = Table::new(&[("NAME", Align::Left), ("N", Align::Right)]);
        let style = Style {
            color: true,
            ascii: false,
            width: None,
        };
        table.row(vec![Cell::painted(style.state(State::Dead), "✗ dead"), "12".into()]);
        table.row(vec!["a".into(), "3".into()]);
        assert_eq!(
            table.render(style),
            "\x1b[1mNAME\x1b[0m     \x1b[1mN\x1b[0m\n\x1b[31m✗ dead\x1b[0m  12\na        3\n"
        );
        let line = progress_line("retrying", 1204, Some(9300), Duration::from_secs(2));
        assert_eq!(line, "retrying 1,204/9,300  602/s, 13.4 s left");
    }
}
