//! Every limit and default, in one place: the code reads them here, `millhand limits` prints them.

use std::time::Duration;

/// One row of the table that `millhand limits` prints.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Its name in errors and in the table.
    pub name: &'static str,
    /// Its value with its unit, as text.
    pub value: &'static str,
    /// What it bounds, and what happens beyond it.
    pub meaning: &'static str,
}

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident: $ty:ty = $value:expr, $label:literal, $shown:literal, $meaning:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: $ty = $value;)+

        /// All limits, as `millhand limits` prints them.
        pub const TABLE: &[Limit] = &[
            $(Limit { name: $label, value: $shown, meaning: $meaning },)+
        ];

        /// The constants by name, in the table's order.
        #[cfg(test)]
        fn constants() -> Vec<(&'static str, tests::Constant)> {
            vec![$((stringify!($name), $name.into()),)+]
        }
    };
}

limits! {
    /// Bytes of a task, queue or namespace name.
    NAME_BYTES: usize = 64, "name", "64 characters", "task, queue and namespace names; longer ones are refused";
    /// Bytes of a job's arguments.
    ARGS_BYTES: usize = 1 << 20, "arguments", "1 MiB", "encoded arguments of one job; bigger ones are refused at enqueue";
    /// Bytes of a job's result.
    RESULT_BYTES: usize = 1 << 20, "result", "1 MiB", "encoded result; a bigger one makes the job dead with result_too_big";
    /// Bytes of one message.
    MESSAGE_BYTES: usize = 15 * (1 << 20) + (1 << 19), "message", "15.5 MiB", "one parcel on the wire; a longer one is unreadable";
    /// Bytes of a parcel of several jobs.
    PARCEL_BYTES: usize = 1 << 20, "parcel", "1 MiB", "a parcel of several jobs; a bigger job travels alone";
    /// Jobs in a parcel.
    PARCEL_JOBS: usize = 1024, "jobs in a parcel", "1,024", "one queue, class and due second";
    /// Nesting of MessagePack values.
    DEPTH: usize = 64, "depth", "64 levels", "nesting in parcels and arguments; deeper is unreadable";
    /// Tags of a job.
    TAGS: usize = 8, "tags", "8", "tags of one job";
    /// Bytes of one tag.
    TAG_BYTES: usize = 64, "tag", "64 bytes", "one tag";
    /// Bytes of an error's text.
    ERROR_BYTES: usize = 16 << 10, "error text", "16 KiB", "what is kept of an attempt's error; the rest is cut";
    /// Bytes of a result that is kept in the record itself.
    INLINE_BYTES: usize = 256, "inline value", "256 bytes", "bigger results lie beside the record";
    /// Attempts whose notes are kept.
    ATTEMPT_NOTES: usize = 32, "attempt notes", "32", "the newest attempts of a job that its record tells of";
    /// Mailboxes that are told of a job's end.
    WAITERS: usize = 64, "waiters", "64", "processes that are told of a job's end; more learn it when they read again";
    /// Children that one attempt may enqueue.
    CHILDREN: usize = 1000, "children", "1,000", "jobs that one attempt may enqueue; more is an error in the handler";
    /// Bytes of the children of one attempt.
    CHILDREN_BYTES: usize = 16 << 20, "children, bytes", "16 MiB", "arguments of the children of one attempt";
    /// Retries after the first attempt.
    RETRIES: u32 = 8, "retries", "8", "attempts after the first; then the job is dead";
    /// The cap of the first retry delay.
    RETRY_BASE: Duration = Duration::from_secs(15), "first retry delay", "7.5 to 15 s", "the cap doubles with each retry";
    /// The largest cap of a retry delay.
    RETRY_CAP: Duration = Duration::from_secs(32 * 60), "longest retry delay", "16 to 32 min", "all default retries take about 48 min in the mean";
    /// Delay or expiry into the future.
    HORIZON: Duration = Duration::from_secs(366 * 24 * 3600), "horizon", "366 days", "the farthest delay, not-before or expiry";
    /// Hard time limit of a process task, by default.
    PROCESS_HARD: Duration = Duration::from_secs(3600), "process time limit", "1 h", "then the child's process group is killed";
    /// How long a succeeded job is remembered.
    KEEP_SUCCEEDED: Duration = Duration::from_secs(24 * 3600), "retention, succeeded", "1 day", "then its record is forgotten";
    /// How long any other ended job is remembered.
    KEEP_OTHERS: Duration = Duration::from_secs(7 * 24 * 3600), "retention, others", "7 days", "dead, cancelled and expired jobs";
    /// The first wait of a parked job.
    PARK_FIRST: Duration = Duration::from_secs(5), "parked, first wait", "5 s", "a job that this worker does not know; the wait doubles";
    /// The longest wait of a parked job.
    PARK_LONGEST: Duration = Duration::from_secs(60), "parked, longest wait", "1 min", "between two looks at a parked job";
    /// How long a job may stay parked.
    PARK_TOTAL: Duration = Duration::from_secs(24 * 3600), "parked, in all", "1 day", "then it is dead with parked_too_long";
    /// The lease of a worker.
    LEASE: Duration = Duration::from_secs(15), "lease", "15 s", "a worker whose beat is older is dead; on SQLite a file lock tells at once";
    /// How often a worker beats.
    BEAT: Duration = Duration::from_secs(5), "beat", "5 s", "how often a worker renews its lease";
    /// How long a message may take until it is published.
    PUBLISH: Duration = Duration::from_secs(20), "publish", "20 s", "until RabbitMQ has a message; then it is refused, or unknown when it may be there";
    /// Bytes that wait to be published in one process.
    PUBLISH_BYTES: usize = 64 << 20, "waiting to be published", "64 MiB", "in one process (RabbitMQ); what comes then waits, and is refused when its time is up";
    /// The heartbeat of a connection to RabbitMQ, by default.
    HEARTBEAT: Duration = Duration::from_secs(10), "heartbeat", "10 s", "of a connection to RabbitMQ, by default; its address may say another one";
    /// How long an answer of Redis may take.
    REDIS_ANSWER: Duration = Duration::from_millis(2500), "answer of Redis", "2.5 s", "a server that is slower is taken for gone";
    /// How long a job runs before its parcel is let go.
    DETACH_AFTER: Duration = Duration::from_secs(10), "detach", "10 s", "a longer job leaves a watch copy (RabbitMQ)";
    /// How long after its hard limit a running job is taken for lost.
    DEADLINE_GRACE: Duration = Duration::from_secs(60), "deadline grace", "1 min", "hard limit + this is a running job's deadline";
    /// The deadline of a job without a hard limit.
    DEADLINE_OPEN: Duration = Duration::from_secs(600), "open deadline", "10 min", "of a job without hard limit; its owner moves it on";
    /// Worker deaths after which a job is a suspect.
    SUSPECT_AFTER: u32 = 2, "suspect", "2 worker deaths", "then it runs with no other suspect beside it";
    /// How long a suspect that finds another one running goes back for.
    SUSPECT_WAIT: Duration = Duration::from_secs(2), "suspect, wait", "2 s", "while another one runs in the worker that it came to";
    /// Further deaths of a suspect before the job is dead.
    SUSPECT_DEATHS: u32 = 3, "suspect deaths", "3 more", "then it is dead with worker_lost";
    /// Bytes of the log of one attempt.
    LOG_BYTES: usize = 64 << 10, "log of an attempt", "64 KiB", "what a job printed and said; the oldest lines are dropped beyond";
    /// Bytes of one line of a job's log.
    LOG_LINE_BYTES: usize = 4 << 10, "line of a log", "4 KiB", "a longer line is cut";
    /// Running jobs whose progress a worker tells with its beat.
    PROGRESS_JOBS: usize = 100, "progress", "100 jobs", "how many running jobs of one worker are told of with each beat; those that run longest come first";
    /// Bytes of arguments or results that go to and from a child beside its socket.
    SHARED_OVER: usize = 1 << 20, "beside the socket", "over 1 MiB", "arguments and results that go to and from a child by descriptor";
    /// Bytes that may go by descriptor.
    SHARED_BYTES: usize = 256 << 20, "by descriptor, at most", "256 MiB", "of one payload; the arguments' own limit is lower";
    /// Jobs that a child may hold at once.
    CHILD_JOBS: usize = 64, "jobs in a child", "64", "16 of them are given, and only while they take under 0.5 ms in the mean";
    /// How long a child is kept without a job.
    CHILD_IDLE: Duration = Duration::from_secs(300), "idle child", "5 min", "then a child without a job is ended";
    /// How long a child may take to start.
    CHILD_START: Duration = Duration::from_secs(30), "start of a child", "30 s", "until its hello; then it is killed and the attempt fails";
    /// Crashes of its process before the job is dead.
    CRASHES: u32 = 3, "crashes", "3", "by default; so many crashed attempts of one job, and it is dead with crashed; they are not counted as retries";
    /// How long a poll may hold a thread of the async executor, by default.
    BLOCK_LIMIT: Duration = Duration::from_millis(50), "blocking poll", "50 ms", "a poll of an async task that holds its thread longer is recorded, with its task and job";
    /// How long after a job was asked to end its thread counts as leaked.
    LEAK_AFTER: Duration = Duration::from_secs(10), "leaked thread", "10 s", "a thread whose job was asked to end and still runs is not counted as a slot until it ends";
    /// How long a job waits for a slot in a worker.
    ROOM_WAIT: Duration = Duration::from_secs(1), "room wait", "1 s", "a job that found no slot goes back to its queue";
    /// Measured work that a worker holds in advance.
    ROOM_WORK: Duration = Duration::from_millis(50), "room", "50 ms of work", "per executor; nothing for tasks with p95 over 1 s";
    /// Slots of the async executor, by default.
    ASYNC_SLOTS: usize = 100, "async slots", "100", "by default; threads and processes have one for each core";
    /// Jobs that ended and are not yet remembered.
    SETTLE_WINDOW: usize = 1024, "settle window", "1,024 jobs", "at most 4 x slots; when it is full, slots wait";
    /// How long running jobs may go on when their worker stops, by default.
    GRACE: Duration = Duration::from_secs(30), "shutdown grace", "30 s", "by default; a job that runs on goes back to its queue";
    /// Redeliveries after which a parcel is split.
    SPLIT_AFTER: u32 = 2, "split", "2 redeliveries", "a parcel is then split into parcels of one job";
    /// Unreadable parcels that are kept.
    UNREADABLE: usize = 10_000, "unreadable parcels", "10,000", "the newest are kept to be looked at";
    /// Bytes that are kept of an unreadable message that does not begin as parcels do, or is too long.
    UNREADABLE_BYTES: usize = 4 << 10, "unreadable, bytes", "4 KiB", "kept of a message that does not begin as parcels do, or is longer than one may be; others are kept whole";
    /// Notes of unreadable messages.
    UNREADABLE_NOTES: usize = 100, "unreadable, notes", "100", "why the newest cannot be read, of all queues";
    /// Notes of unreadable messages that are shown of one queue.
    UNREADABLE_SHOWN: usize = 10, "unreadable, shown", "10", "the newest notes of one queue";
    /// How long the numbers of a minute are kept.
    KEEP_STATS: Duration = Duration::from_secs(24 * 3600), "retention, statistics", "1 day", "counts and times of each minute, queue and task";
    /// Rows that a list looks at.
    LIST_SCAN: usize = 100_000, "list", "100,000 rows", "how far a list with a filter looks; it says when it stopped";
    /// Connections to the health endpoint at once.
    HEALTH_CONNECTIONS: usize = 64, "health connections", "64", "to one worker at once; one more ends the oldest";
    /// How long a connection to the health endpoint may last.
    HEALTH_CONNECTION: Duration = Duration::from_secs(5), "health connection", "5 s", "its request and its answer; then it is closed";
    /// Bytes of a settings file.
    SETTINGS_BYTES: usize = 4 << 20, "settings file", "4 MiB", "a longer one is refused";
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) enum Constant {
        Number(usize),
        Span(Duration),
    }

    impl From<usize> for Constant {
        fn from(number: usize) -> Self {
            Self::Number(number)
        }
    }

    impl From<u32> for Constant {
        fn from(number: u32) -> Self {
            Self::Number(number.try_into().unwrap())
        }
    }

    impl From<Duration> for Constant {
        fn from(span: Duration) -> Self {
            Self::Span(span)
        }
    }

    /// In the largest unit of which it is a whole number, seconds also broken; days of several, and one of one.
    fn span(span: Duration) -> String {
        let millis = span.as_millis();
        let units = [
            (86_400_000, "days"),
            (3_600_000, "h"),
            (60_000, "min"),
            (1000, "s"),
            (1, "ms"),
        ];
        let (unit, name) = units
            .into_iter()
            .find(|(unit, name)| millis.is_multiple_of(*unit) || (*name == "s" && millis > *unit))
            .unwrap();
        match (millis as f64 / unit as f64, name) {
            (1.0, "days") => "1 day".to_owned(),
            (number, name) => format!("{number} {name}"),
        }
    }

    fn bytes(bytes: usize) -> String {
        match bytes {
            0..1024 => format!("{bytes} bytes"),
            1024..1_048_576 => format!("{} KiB", bytes as f64 / 1024.0),
            _ => format!("{} MiB", bytes as f64 / 1_048_576.0),
        }
    }

    fn count(number: usize) -> String {
        match number {
            0..1000 => number.to_string(),
            _ => format!("{},{:03}", count(number / 1000), number % 1000),
        }
    }

    /// The first number of a text.
    fn number(text: &str) -> f64 {
        text.split(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn what_is_shown_is_what_counts() {
        assert_eq!(constants().len(), TABLE.len());
        for ((name, constant), limit) in constants().into_iter().zip(TABLE) {
            let is = match constant {
                Constant::Span(of) => span(of),
                // A name is ASCII.
                Constant::Number(of) if name == "NAME_BYTES" => format!("{of} characters"),
                Constant::Number(of) if name.ends_with("_BYTES") || name == "SHARED_OVER" => bytes(of),
                Constant::Number(of) => count(of),
            };
            // The table may say more, before it or behind it: "over 1 MiB", "2 redeliveries".
            let words: Vec<&str> = is.split(' ').collect();
            let shown: Vec<&str> = limit.value.split(' ').collect();
            assert!(
                shown.windows(words.len()).any(|some| some == words),
                "{name} is {is}, and shown is {:?}",
                limit.value
            );
            // A delay is drawn between half its cap and the cap.
            if let Some((half, cap)) = limit.value.split_once(" to ") {
                assert_eq!(number(half) * 2.0, number(cap), "{name}");
            }
        }
    }
}
