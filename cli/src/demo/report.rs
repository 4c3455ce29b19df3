//! The demo as a page: one file, no script, light and dark, nothing loaded from anywhere.

use std::fmt::Write as _;
use std::time::Duration;

use super::Told;
use super::figures::{self, Phases};
use super::words::percentile;
use crate::output::{clean, grouped, plural};
use crate::times;

const STYLE: &str = "\
:root{color-scheme:light dark;--page:#fff;--text:#1b1f24;--muted:#555f6a;--line:#d5dae0;--good:#15937a;--bad:#b3261e;\
--amount:#2f6fbe;--p50:#5588c8;--p95:#2f6fbe;--p99:#0b3f91}\
@media(prefers-color-scheme:dark){:root{--page:#12161b;--text:#e7ecf1;--muted:#a7b1bc;--line:#2c343d;--good:#86eed8;\
--bad:#ef3f3b;--amount:#6aa9f2;--p50:#4a7fc4;--p95:#6aa9f2;--p99:#b5d6ff}}\
@media print{:root{--page:#fff;--text:#1b1f24;--muted:#555f6a;--line:#d5dae0}}\
body{margin:24px auto;max-width:720px;padding:0 16px;background:var(--page);color:var(--text);\
font:14px/20px system-ui,sans-serif;font-variant-numeric:tabular-nums}\
h1{font-size:20px;line-height:28px;overflow-wrap:anywhere}h2{font-size:16px;margin:32px 0 8px}\
table{border-collapse:collapse}th,td{padding:4px 12px 4px 0;border-bottom:1px solid var(--line);text-align:left;\
vertical-align:top;overflow-wrap:anywhere}th{font-weight:600}.n{text-align:right}.m,small,summary{color:var(--muted)}\
code{font:13px ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}.good{color:var(--good)}.bad{color:var(--bad)}\
.wide{overflow-x:auto}svg{display:block;width:100%;height:auto;max-width:640px}svg text{font-size:12px;fill:var(--muted)}\
.grid{stroke:var(--line)}.amount{fill:var(--amount)}.p50{fill:var(--p50)}.p95{fill:var(--p95)}.p99{fill:var(--p99)}\
.hit{fill:transparent}";

/// What lies left and right of a plot, above and below it, in a frame of 640 by 200.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 64.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 22.0;
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 200.0;

/// Text in HTML.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in clean(text, false).chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(c),
        }
    }
    safe
}

/// The whole page.
pub(super) fn page(told: &Told<'_>) -> String {
    let root = told.root.canonicalize().unwrap_or_else(|_| told.root.to_owned());
    let root = escape(&root.display().to_string());
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{root} · demo · millhand</title>\n<style>{STYLE}</style></head>\n<body><main>\n<h1>{root}</h1>\n"
    );
    verdict(&mut out, told);
    totals(&mut out, told);
    top(&mut out, told);
    let width = told.ledger.timeline.width();
    let steps = &told.ledger.timeline.steps;
    let per_second = |n: u64| n as f64 / width.as_secs_f64();
    out.push_str("<h2>Jobs that ended, per second</h2>\n");
    let jobs: Vec<f64> = steps.iter().map(|s| per_second(s.0)).collect();
    over_time(&mut out, "Jobs per second", &jobs, width, |v| {
        figures::rate(whole(v), Duration::from_secs(1))
    });
    out.push_str("<h2>Bytes that were counted, per second</h2>\n");
    let bytes: Vec<f64> = steps.iter().map(|s| per_second(s.1)).collect();
    over_time(&mut out, "Bytes per second", &bytes, width, figures::rate_bytes);
    for (name, executor, all) in [
        ("demo.read", "async: it waits for the disk", &told.ledger.read),
        ("demo.count", "process: it works", &told.ledger.count),
    ] {
        phases(&mut out, name, executor, all);
    }
    histogram(&mut out, told);
    out.push_str("</main></body></html>\n");
    out
}

/// A number that is drawn, as a whole one for words.
fn whole(value: f64) -> u64 {
    Duration::from_secs_f64(value.clamp(0.0, 1e18)).as_secs()
}

fn verdict(out: &mut String, told: &Told<'_>) {
    let verdict = told.verdict;
    if verdict.holds() {
        let what = if verdict.changed.is_empty() {
            "bytes, lines, words, the count of each word and byte, and the digest of each file are equal"
        } else {
            "bytes, lines, words and digest of each file are equal"
        };
        let files = plural(verdict.files, "file");
        let _ = writeln!(
            out,
            "<p><b class=\"good\">✓ Proved</b> for {files}: {what} when one thread reads them again in its own way.</p>"
        );
    } else {
        let count = plural(verdict.count as u64, "difference");
        let _ = writeln!(
            out,
            "<p><b class=\"bad\">✗ Not proved</b>: {count} between the jobs and one thread that read the files again.</p><ul>"
        );
        for difference in &verdict.differences {
            let _ = writeln!(out, "<li>{}</li>", escape(difference));
        }
        out.push_str("</ul>\n");
    }
    if !verdict.changed.is_empty() {
        let changed = plural(verdict.changed.len() as u64, "file");
        let _ = writeln!(
            out,
            "<p>{changed} changed, came or went meanwhile and prove nothing; neither do the counts of words and bytes over all files.</p>"
        );
    }
    let _ = writeln!(
        out,
        "<p>{} by jobs, {} by one thread.{}</p>",
        times::human(told.whole()),
        times::human(verdict.took),
        told.why_slower()
            .map_or_else(String::new, |why| format!(" Why: {why}."))
    );
}

fn totals(out: &mut String, told: &Told<'_>) {
    let (claim, ledger, looked) = (&told.ledger.claim, told.ledger, told.looked);
    let rate = claim.bytes as f64 / told.took.as_secs_f64().max(1e-6);
    let passed = format!(
        "{} symbolic links, {} pipes, sockets and devices, {} hidden or target folders",
        grouped(looked.links),
        grouped(looked.special),
        grouped(looked.passed)
    );
    let rows = [
        (
            "Files",
            format!(
                "{} in {}",
                grouped(claim.files.len() as u64),
                plural(looked.folders, "folder")
            ),
        ),
        ("Passed over", passed),
        ("Unreadable", grouped(claim.unreadable.len() as u64)),
        (
            "Bytes",
            format!("{} ({})", grouped(claim.bytes), figures::bytes(claim.bytes)),
        ),
        ("Lines", grouped(claim.lines)),
        (
            "Words",
            format!(
                "{}, {} different plain ones",
                grouped(claim.words),
                grouped(claim.plain.len() as u64)
            ),
        ),
        (
            "Entropy",
            format!("{:.3} bits per byte", figures::entropy(&claim.histogram)),
        ),
        (
            "Jobs",
            format!(
                "{} in {}, {} failed; {} jobs/s, {}/s on {} processes",
                plural(ledger.jobs, "job"),
                plural(ledger.attempts, "attempt"),
                grouped(ledger.failed),
                figures::rate(ledger.jobs, told.took),
                figures::rate_bytes(rate),
                told.slots.processes
            ),
        ),
        ("CPU in processes", times::human(ledger.count.cpu)),
    ];
    out.push_str("<h2>Totals</h2>\n<table>\n");
    for (name, value) in rows {
        let _ = writeln!(out, "<tr><th scope=\"row\">{name}</th><td>{}</td></tr>", escape(&value));
    }
    let digest = figures::hex(&claim.digest);
    let _ = writeln!(
        out,
        "<tr><th scope=\"row\">Digest</th><td><code>{digest}</code></td></tr>\n</table>"
    );
    let troubles = claim
        .unreadable
        .iter()
        .map(|(name, why)| (String::from_utf8_lossy(name).into_owned(), why));
    listed(
        out,
        "What could not be read",
        claim.unreadable.len(),
        troubles.map(|(name, why)| format!("{name}: {why}")),
    );
    listed(
        out,
        "Jobs that failed",
        told.ledger.failures.len(),
        told.ledger.failures.iter().cloned(),
    );
}

fn listed(out: &mut String, title: &str, count: usize, items: impl Iterator<Item = String>) {
    const MOST: usize = 100;
    if count == 0 {
        return;
    }
    let _ = writeln!(out, "<details><summary>{title}</summary><ul>");
    for item in items.take(MOST) {
        let _ = writeln!(out, "<li>{}</li>", escape(&item));
    }
    if count > MOST {
        let _ = writeln!(out, "<li>and {} more</li>", grouped((count - MOST) as u64));
    }
    out.push_str("</ul></details>\n");
}

fn top(out: &mut String, told: &Told<'_>) {
    out.push_str("<h2>Most used words</h2>\n");
    let Some(most) = told.top.first().map(|(_, count)| *count) else {
        return out.push_str("<p class=\"m\">No plain words.</p>\n");
    };
    out.push_str("<table>\n<tr><th scope=\"col\">Word</th><th scope=\"col\" class=\"n\">Count</th><td></td></tr>\n");
    for (word, count) in &told.top {
        let width = *count as f64 / most as f64 * 240.0;
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td class=\"n\">{}</td><td><svg width=\"240\" height=\"12\" viewBox=\"0 0 240 12\" aria-hidden=\"true\"><rect class=\"amount\" width=\"{width:.1}\" height=\"12\"/></svg></td></tr>",
            escape(word),
            grouped(*count)
        );
    }
    out.push_str("</table>\n");
}

fn open(out: &mut String, height: f64, title: &str, description: &str) {
    let _ = writeln!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\"><title>{}</title><desc>{}</desc>",
        escape(title),
        escape(description)
    );
}

/// The least of 1, 2, 5, 10, … that is at least `value`.
fn ceiling(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|n| n * power)
        .into_iter()
        .find(|n| *n >= value * 0.999)
        .unwrap_or(value)
}

fn over_time(out: &mut String, title: &str, values: &[f64], width: Duration, unit: impl Fn(f64) -> String) {
    let most = values.iter().copied().fold(0.0, f64::max);
    if most <= 0.0 {
        return out.push_str("<p class=\"m\">Nothing was to be done.</p>\n");
    }
    let (high, plot, tall) = (ceiling(most), WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let end = times::human(width * u32::try_from(values.len()).unwrap_or(u32::MAX));
    let step = times::human(width);
    open(
        out,
        HEIGHT,
        &format!("{title}, in steps of {step}"),
        &format!("At most {}, over {end}.", unit(most)),
    );
    for part in [0.0, 0.5, 1.0] {
        let y = TOP + tall * (1.0 - part);
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\"/><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            escape(&if part > 0.0 { unit(high * part) } else { "0".to_owned() })
        );
    }
    let each = plot / values.len() as f64;
    for (at, value) in values.iter().enumerate() {
        let (x, height) = (LEFT + each * at as f64, tall * value / high);
        let when = times::human(width * u32::try_from(at).unwrap_or(u32::MAX));
        let _ = writeln!(
            out,
            "<rect class=\"amount\" x=\"{x:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{height:.2}\"/><rect class=\"hit\" x=\"{x:.2}\" y=\"{TOP}\" width=\"{each:.2}\" height=\"{tall}\"><title>{when}: {}/s</title></rect>",
            TOP + tall - height,
            (each - 0.5).max(each * 0.5),
            escape(&unit(*value))
        );
    }
    let base = HEIGHT - 6.0;
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"{base}\">0 s</text><text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{end}</text></svg>",
        WIDTH - RIGHT
    );
    points(
        out,
        ["After", "Per second"],
        (0_u32..)
            .zip(values)
            .map(|(at, v)| [times::human(width * at), unit(*v)]),
    );
}

fn points<const N: usize>(out: &mut String, titles: [&str; N], rows: impl Iterator<Item = [String; N]>) {
    out.push_str("<details><summary>The same as a table</summary><div class=\"wide\"><table>\n<tr>");
    for title in titles {
        let _ = write!(out, "<th scope=\"col\" class=\"n\">{title}</th>");
    }
    out.push_str("</tr>\n");
    for row in rows {
        out.push_str("<tr>");
        for cell in row {
            let _ = write!(out, "<td class=\"n\">{}</td>", escape(&cell));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div></details>\n");
}

/// Percentiles of each phase, on a scale of powers of ten.
fn phases(out: &mut String, name: &str, executor: &str, all: &Phases) {
    const ROW: f64 = 26.0;
    let count = all.whole.count();
    let _ = writeln!(
        out,
        "<h2>Where the time of {name} went</h2>\n<p class=\"m\">{executor}. {}, from their receipts. Bars from top to bottom: p50, p95, p99; the scale is logarithmic.</p>",
        plural(count, "job")
    );
    if count == 0 {
        return;
    }
    let rows: Vec<_> = all.rows().collect();
    let micros = |span: Duration| span.as_secs_f64() * 1e6;
    let most = rows
        .iter()
        .filter_map(|(_, s)| s.percentile(990).or(s.percentile(500)))
        .map(micros)
        .fold(10.0, f64::max);
    let powers = most.log10().ceil().clamp(1.0, 12.0);
    let tall = ROW * rows.len() as f64;
    let plot = WIDTH - LEFT - RIGHT;
    let x = |micros: f64| LEFT + plot * (micros.max(1.0).log10() / powers).clamp(0.0, 1.0);
    open(
        out,
        TOP + tall + BOTTOM,
        &format!("Percentiles of each phase of {name}"),
        "From top to bottom: p50, p95, p99.",
    );
    let mut power = 0.0;
    while power <= powers {
        let at = LEFT + plot * power / powers;
        let label = times::compact(Duration::from_secs_f64(10_f64.powf(power) / 1e6));
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{}\"/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            TOP + tall,
            TOP + tall + 16.0
        );
        power += 1.0;
    }
    for (at, (phase, spread)) in rows.iter().enumerate() {
        let y = TOP + ROW * at as f64;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{phase}</text>",
            LEFT - 6.0,
            y + 17.0
        );
        for (lane, (class, thousandths)) in [("p50", 500), ("p95", 950), ("p99", 990)].into_iter().enumerate() {
            let Some(span) = spread.percentile(thousandths) else {
                continue;
            };
            let _ = writeln!(
                out,
                "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"6\"><title>{phase}: {class} {}</title></rect>",
                y + 3.0 + 7.0 * lane as f64,
                (x(micros(span)) - LEFT).max(2.0),
                times::human(span)
            );
        }
    }
    out.push_str("</svg>\n");
    let row = |(phase, spread): &(&str, &figures::Spread)| {
        let at = |thousandths| percentile(spread, thousandths, false);
        [(*phase).to_owned(), at(500), at(950), at(990)]
    };
    points(out, ["Phase", "p50", "p95", "p99"], rows.iter().map(row));
}

fn histogram(out: &mut String, told: &Told<'_>) {
    let histogram = &told.ledger.claim.histogram;
    let most = histogram.iter().copied().max().unwrap_or(0) as f64;
    let entropy = figures::entropy(histogram);
    let _ = writeln!(
        out,
        "<h2>How often each byte occurs</h2>\n<p class=\"m\">{entropy:.3} bits per byte; the scale is logarithmic.</p>"
    );
    if most < 1.0 {
        return out.push_str("<p class=\"m\">No bytes.</p>\n");
    }
    let (plot, tall) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    open(
        out,
        HEIGHT,
        "How often each of the 256 bytes occurs",
        &format!("At most {} times.", grouped(whole(most))),
    );
    let high = (most + 1.0).log10();
    let each = plot / 256.0;
    let base = TOP + tall;
    let _ = writeln!(
        out,
        "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{base}\" y2=\"{base}\"/>",
        WIDTH - RIGHT
    );
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
        LEFT - 6.0,
        TOP + 4.0,
        short(most)
    );
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">0</text>",
        LEFT - 6.0,
        base + 4.0
    );
    for (byte, count) in histogram.iter().enumerate() {
        let height = tall * (*count as f64 + 1.0).log10() / high;
        let x = LEFT + each * byte as f64;
        let _ = writeln!(
            out,
            "<rect class=\"amount\" x=\"{x:.2}\" y=\"{:.2}\" width=\"{each:.2}\" height=\"{height:.2}\"><title>0x{byte:02x}: {}</title></rect>",
            base - height,
            grouped(*count)
        );
    }
    for byte in [0_u32, 64, 128, 192, 255] {
        let x = LEFT + each * (f64::from(byte) + 0.5);
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">0x{byte:02x}</text>",
            HEIGHT - 6.0
        );
    }
    out.push_str("</svg>\n");
    let rows = histogram
        .iter()
        .enumerate()
        .map(|(byte, count)| [format!("0x{byte:02x}"), grouped(*count)]);
    points(out, ["Byte", "Count"], rows);
}

/// A count in few characters.
fn short(number: f64) -> String {
    for (unit, size) in [(" G", 1e9), (" M", 1e6), (" k", 1e3)] {
        if number >= size {
            return format!("{:.1}{unit}", number / size);
        }
    }
    format!("{number:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_text_and_never_markup() {
        assert_eq!(
            escape("<b a=\"1\">'&\u{202e}"),
            "&lt;b a=&quot;1&quot;&gt;&#39;&amp;\\u{202e}"
        );
    }

    #[test]
    fn scales_end_at_round_numbers() {
        for (value, round) in [(0.7, 1.0), (1.0, 1.0), (1.1, 2.0), (340.0, 500.0), (5.1e6, 1e7)] {
            assert!((ceiling(value) / round - 1.0).abs() < 1e-6, "{value}");
        }
    }
}
