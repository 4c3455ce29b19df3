//! The names of all settings, and the nearest to a wrong one.

const TOP_KEYS: [&str; 4] = ["broker", "store", "worker", "tasks"];
const WORKER_KEYS: [&str; 8] = [
    "queues",
    "async",
    "threads",
    "processes",
    "grace",
    "recycle_jobs",
    "recycle_memory",
    "health",
];
const TASK_KEYS: [&str; 8] = [
    "command",
    "child",
    "timeout",
    "soft_timeout",
    "retries",
    "crashes",
    "slots",
    "memory",
];

/// The settings that stand where `key` was looked for.
pub(super) fn siblings(key: &str) -> impl Iterator<Item = String> {
    let parts: Vec<_> = key.split('.').collect();
    let (prefix, names): (String, &[&str]) = match parts.as_slice() {
        ["worker", ..] => ("worker.".into(), &WORKER_KEYS),
        ["tasks", task, ..] => (format!("tasks.{task}."), &TASK_KEYS),
        _ => (String::new(), &TOP_KEYS),
    };
    names.iter().map(move |name| format!("{prefix}{name}"))
}

/// The nearest right key, when it is near enough to be meant.
pub(super) fn nearest(key: &str) -> Option<String> {
    let all = siblings(key).chain(WORKER_KEYS.iter().map(|k| format!("worker.{k}")));
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    all.map(|right| {
        (
            distance(key, &right).min(1 + distance(&last(key), &last(&right))),
            right,
        )
    })
    .min()
    .filter(|(distance, right)| *distance <= (last(right).len() / 3).max(2))
    .map(|(_, right)| right)
}

/// How many letters have to be put in, left out, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}
