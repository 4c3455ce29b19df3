//! Lines of runs as a table for `docs/guarantees.md`: one row for each scenario and place.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

/// What is added up over the runs of a row.
#[derive(Default)]
struct Row {
    runs: u64,
    passed: u64,
    void: Vec<String>,
    sums: BTreeMap<&'static str, u64>,
    longest: BTreeMap<&'static str, u64>,
}

const SUMS: [&str; 7] = [
    "acknowledged",
    "lost",
    "stuck",
    "duplicated",
    "fenced",
    "kills",
    "kills_that_hit_running_jobs",
];

/// Times that a run may have, with what they are called in the table.
const TIMES: [(&str, &str); 10] = [
    ("t_detect", "told a producer"),
    ("t_noticed", "noticed by workers"),
    ("t_forgotten", "told who waited"),
    ("t_first_confirm", "first confirm"),
    ("t_first_success", "first success"),
    ("t_consumers", "all consumers back"),
    ("t_run_again", "run again"),
    ("t_paused", "paused everywhere"),
    ("t_exit", "exit"),
    ("t_others", "others ended"),
];

/// The table; `None` of no run at all.
pub(crate) fn table(lines: &str) -> Result<Option<String>, serde_json::Error> {
    let mut rows: BTreeMap<(String, String), Row> = BTreeMap::new();
    for line in lines.lines().filter(|line| line.starts_with('{')) {
        let line: Value = serde_json::from_str(line)?;
        let word = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let row = rows.entry((word("scenario"), word("place"))).or_default();
        row.runs += 1;
        row.passed += u64::from(line["passed"] == true);
        if line["passed"] != true {
            let wrong = line["wrong"].as_array().and_then(|wrong| wrong.first()?.as_str());
            let why = line["void"].as_str().or(wrong).unwrap_or("?");
            row.void
                .push(format!("{}: {}", word("plan"), why.lines().next().unwrap_or_default()));
        }
        for name in SUMS {
            *row.sums.entry(name).or_default() += line[name].as_u64().unwrap_or(0);
        }
        for (name, _) in TIMES.iter().chain(&[("t_drained", "")]) {
            if let Some(time) = line[name].as_u64() {
                let longest = row.longest.entry(name).or_default();
                *longest = time.max(*longest);
            }
        }
    }
    if rows.is_empty() {
        return Ok(None);
    }
    let mut table = String::from(
        "| | where | runs passed | kills; of running jobs | acknowledged | lost | stuck | more than once | stale ends | all ended within | longest times |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for ((scenario, place), row) in rows {
        let sum = |name| row.sums.get(name).copied().unwrap_or(0);
        let mut times = Vec::new();
        for (name, words) in TIMES {
            if let Some(time) = row.longest.get(name) {
                times.push(format!("{words} {}", seconds(*time)));
            }
        }
        times.extend(row.void.iter().map(|why| format!("**{why}**")));
        let _ = writeln!(
            table,
            "| {scenario} | {place} | {} of {} | {}; {} | {} | {} | {} | {} | {} | {} | {} |",
            row.passed,
            row.runs,
            sum("kills"),
            sum("kills_that_hit_running_jobs"),
            sum("acknowledged"),
            sum("lost"),
            sum("stuck"),
            sum("duplicated"),
            sum("fenced"),
            row.longest
                .get("t_drained")
                .map_or("-".to_owned(), |time| seconds(*time)),
            times.join("; "),
        );
    }
    Ok(Some(table))
}

fn seconds(millis: u64) -> String {
    format!("{}.{} s", millis / 1000, millis % 1000 / 100)
}

#[cfg(test)]
mod tests {
    #[test]
    fn runs_of_one_scenario_and_place_are_one_row() {
        let run = r#"{"scenario":"F01","place":"fleet","plan":"x","passed":true,"acknowledged":5,"lost":0,"kills":1,"t_run_again":16124}"#;
        let failed = r#"{"scenario":"F01","place":"fleet","plan":"y","passed":false,"void":"no end","lost":2,"t_run_again":900}"#;
        let table = super::table(&format!("{run}\nnoise\n{failed}\n")).expect("lines");
        let table = table.expect("a table");
        let row = table.lines().last().unwrap_or_default();
        assert_eq!(
            row,
            "| F01 | fleet | 1 of 2 | 1; 0 | 5 | 2 | 0 | 0 | 0 | - | run again 16.1 s; **y: no end** |"
        );
        assert_eq!(super::table("noise\n").expect("no line"), None);
    }
}
