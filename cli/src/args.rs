//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use millhand_dashboard::Loopback;
use millhand_proto::{Class, QueueName, State, TaskName};

use crate::times::{self, When};

const EXIT_CODES: &str = "\
Exit codes

    0  done
    1  failed; with advise --strict: something should change
    2  the command line or the settings are wrong
    3  nothing matched, or there is no such job
    4  not allowed (kept for later)
    5  the broker or the store cannot be reached or used
    6  partly done: some were refused
    7  not confirmed
  100  the awaited job did not succeed (job wait, enqueue --wait)
  124  the time is up, and the job goes on; where it says so, it may not have been taken yet
  130  interrupted by Ctrl-C";

const ENVIRONMENT: &str = "\
Environment

Every setting of millhand.toml has a variable: MILLHAND_ and its key in capitals, with two
underscores between the levels. It rules over the file; a flag rules over both.

  MILLHAND_BROKER               sqlite:millhand.db
  MILLHAND_STORE                the same
  MILLHAND_WORKER__QUEUES       default,slow
  MILLHAND_WORKER__ASYNC        100
  MILLHAND_WORKER__THREADS      2
  MILLHAND_WORKER__PROCESSES    2
  MILLHAND_WORKER__GRACE        30s
  MILLHAND_WORKER__HEALTH       127.0.0.1:7701

Not settings:

  MILLHAND_LOG                  off, error, warn, info, debug or trace: what a worker writes
  NO_COLOR, CLICOLOR_FORCE      as everywhere
  MILLHAND_JOB_ID, MILLHAND_ATTEMPT, MILLHAND_TASK   set for the command of a task";

const JSON: &str = "\
JSON

-o json prints one document, -o jsonl one item a line. Only these are promised to stay: fields are
added, never changed. Names are snake_case, times are RFC 3339 in UTC with milliseconds, spans are
seconds as a number in fields that end in _seconds, ids are text. A field that does not apply is
missing. Arguments and results stand as they were given, byte for byte. Errors go to standard
error as {\"error\":{\"code\":…,\"message\":…,\"hint\":…}}.

  job list      {\"schema\":\"millhand.job.list/1\",\"as_of\":…,\"items\":[…],\"count\":{\"value\":2,\"exact\":true}}
  job show      {\"schema\":\"millhand.job/1\",\"as_of\":…,\"job\":{…}}
  job log       {\"schema\":\"millhand.job.log/1\",\"id\":…,\"attempt\":1,\"dropped_lines\":0,\"items\":[…]}
  job wait      {\"schema\":\"millhand.job.wait/1\",\"items\":[…]}
  job cancel    {\"schema\":\"millhand.job.cancel/1\",\"done\":1,\"asked\":0,\"refused\":0,\"unknown\":0,\"items\":[…]}
  dead rebuild  {\"schema\":\"millhand.dead.rebuild/1\",\"looked_at\":2,\"remembered\":1}
  worker list   {\"schema\":\"millhand.worker.list/1\",\"as_of\":…,\"items\":[…]}
  worker health {\"schema\":\"millhand.worker.health/1\",\"ok\":true,\"reasons\":[]}
  queue list    {\"schema\":\"millhand.queue.list/1\",\"as_of\":…,\"items\":[…]}
  stats         {\"schema\":\"millhand.stats/1\",\"as_of\":…,\"since\":…,\"items\":[…]}
  advise        {\"schema\":\"millhand.advise/1\",\"as_of\":…,\"since\":…,\"items\":[…]}
  child-check   {\"schema\":\"millhand.child-check/1\",\"items\":[{\"name\":…,\"verdict\":\"passed\"}]}
  limits        {\"schema\":\"millhand.limits/1\",\"items\":[…]}
  enqueue       {\"schema\":\"millhand.enqueue/1\",\"id\":…}; with --wait the job's result alone";

/// Run and watch a distributed task queue.
#[derive(Debug, Parser)]
#[command(
    name = "millhand",
    version,
    disable_help_subcommand = false,
    after_help = "\
Examples:
  millhand worker                                   run the tasks of ./millhand.toml
  millhand enqueue wordcount --args '\"a b c\"' --wait

More: millhand help exit-codes | environment | json"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// Flags that every command takes.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Settings and output")]
pub(crate) struct Global {
    /// The settings file [default: ./millhand.toml if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What carries jobs: sqlite:FILE or amqp://HOST; with TLS amqps://HOST with ?ca=FILE and
    /// cert=FILE&key=FILE [default: sqlite:millhand.db]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) broker: Option<String>,
    /// What remembers jobs: redis://HOST beside RabbitMQ; with TLS rediss://HOST with ?ca=FILE and
    /// cert=FILE&key=FILE [default: the broker]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// How to print: text for people, json and jsonl for programs
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value_t = Format::Text)]
    pub(crate) output: Format,
    /// Short for -o json
    #[arg(long, global = true, conflicts_with = "output")]
    pub(crate) json: bool,
    /// Colours: on a terminal, always, or never
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = Color::Auto)]
    pub(crate) color: Color,
    /// Draw with ASCII characters only
    #[arg(long, global = true)]
    pub(crate) ascii: bool,
}

impl Global {
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.output }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
    Jsonl,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Count a folder's files by jobs, and prove the result
    Demo(crate::demo::Args),
    /// Run the tasks of the settings file, or list the workers
    Worker(WorkerArgs),
    /// Enqueue a job
    #[command(after_help = "\
Examples:
  millhand enqueue wordcount --args '\"a b c\"' --wait
  millhand enqueue report --args-file report.json --queue slow --delay 5m --priority low")]
    Enqueue(EnqueueArgs),
    /// Show, list and act on jobs
    #[command(subcommand)]
    Job(JobCommand),
    /// List, pause, resume and purge queues
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Look after dead jobs
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Show queues, workers, times and failures in a browser; reads only, on this machine only
    #[command(after_help = "\
Examples:
  millhand dashboard                                then open http://127.0.0.1:7700
  millhand dashboard --bind 127.0.0.1:8080 --broker sqlite:jobs.db")]
    Dashboard(DashboardArgs),
    /// Show where the time of tasks went: runs, percentiles of every phase, overhead
    #[command(after_help = "\
Examples:
  millhand stats                                    every task of the last hour, one a line
  millhand stats wordcount --since 1d               one task, phase by phase")]
    Stats(StatsArgs),
    /// Say of each task whether it should run elsewhere or be packed, by how it ran
    #[command(after_help = "\
Examples:
  millhand advise
  millhand advise wordcount --since 1h --strict     fails when something should change")]
    Advise(AdviseArgs),
    /// Try a child program against the child protocol
    #[command(after_help = "\
Starts the command again and again, speaks to it as a worker does and as no worker should, and prints a
line for each thing that it has to do (docs/child-protocol.md). Exit code 1 when it fails one.

Examples:
  millhand child-check python3 examples/python-child/example.py
  millhand child-check --task primes --args '{\"below\": 3000}' python3 examples/python-child/example.py")]
    ChildCheck(ChildCheckArgs),
    /// Print every limit and default
    Limits,
    /// Print the completions of a shell
    Completion {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    #[command(hide = true, name = "exit-codes", about = EXIT_CODES, help_template = "{about}\n")]
    ExitCodes,
    #[command(hide = true, name = "environment", about = ENVIRONMENT, help_template = "{about}\n")]
    Environment,
    #[command(hide = true, name = "json", about = JSON, help_template = "{about}\n")]
    Json,
}

impl Command {
    /// The text of a help topic.
    pub(crate) fn topic(&self) -> Option<&'static str> {
        match self {
            Self::ExitCodes => Some(EXIT_CODES),
            Self::Environment => Some(ENVIRONMENT),
            Self::Json => Some(JSON),
            _ => None,
        }
    }
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct WorkerArgs {
    /// Check the settings and end
    #[arg(long)]
    pub(crate) check: bool,
    /// Answer /live, /ready and /startup over HTTP here, as at 127.0.0.1:7701 [default: nowhere]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) health: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Option<WorkerCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// List the workers: whether they are ready, their slots, and what blocks them
    List,
    /// Ask a worker that answers over HTTP how it is: exit code 0, or 1 and the reasons
    Health(HealthArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct HealthArgs {
    /// What it is asked
    #[arg(value_enum, default_value_t = Health::Ready)]
    pub(crate) what: Health,
    /// Where it answers [default: health of [worker] in the settings]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) at: Option<std::net::SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Health {
    /// Whether its own threads move
    Live,
    /// Whether it takes jobs
    Ready,
    /// Whether it was ready once
    Startup,
}

/// Runs by task, queue and time.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunsArgs {
    /// Only this task
    #[arg(value_name = "TASK")]
    pub(crate) task: Option<TaskName>,
    /// Only its jobs of this queue
    #[arg(long, value_name = "NAME")]
    pub(crate) queue: Option<QueueName>,
}

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    pub(crate) runs: RunsArgs,
    /// From so long ago, or from this RFC 3339 time; at most a day is known
    #[arg(long, value_name = "WHEN", value_parser = times::when, default_value = "1h")]
    pub(crate) since: When,
}

#[derive(Debug, Args)]
pub(crate) struct AdviseArgs {
    #[command(flatten)]
    pub(crate) runs: RunsArgs,
    /// From so long ago, or from this RFC 3339 time; at most a day is known
    #[arg(long, value_name = "WHEN", value_parser = times::when, default_value = "1d")]
    pub(crate) since: When,
    /// End with 1 when something should change
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DashboardArgs {
    /// Where to listen, on this machine; port 0 takes any that is free
    #[arg(long, value_name = "ADDRESS", default_value_t = Loopback::default())]
    pub(crate) bind: Loopback,
}

#[derive(Debug, Args)]
pub(crate) struct EnqueueArgs {
    /// The task's name
    pub(crate) task: TaskName,
    /// Its arguments as JSON; - reads standard input [default: null]
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    pub(crate) args: Option<String>,
    /// Its arguments as JSON in a file
    #[arg(long, value_name = "FILE", conflicts_with = "args")]
    pub(crate) args_file: Option<PathBuf>,
    /// The queue [default: default]
    #[arg(long, value_name = "NAME")]
    pub(crate) queue: Option<QueueName>,
    /// The job's id: a UUID or any text; twice with one id is one job
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
    /// Start after this duration, or at this RFC 3339 time
    #[arg(long, visible_aliases = ["in", "at"], value_name = "WHEN", value_parser = times::when)]
    pub(crate) delay: Option<When>,
    /// Expire after this duration, or at this RFC 3339 time, if it has not started
    #[arg(long, value_name = "WHEN", value_parser = times::when)]
    pub(crate) expires: Option<When>,
    /// Attempts after the first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) retries: Option<u32>,
    /// The hard limit of one attempt
    #[arg(long, value_name = "DURATION", value_parser = times::duration)]
    pub(crate) timeout: Option<Duration>,
    /// low, normal or high
    #[arg(long, value_name = "CLASS", default_value_t = Class::Normal)]
    pub(crate) priority: Class,
    /// A tag; may be given up to eight times
    #[arg(long, value_name = "TEXT")]
    pub(crate) tag: Vec<String>,
    /// Wait for the job's end and print its result alone
    #[arg(long)]
    pub(crate) wait: bool,
    /// Wait no longer than this, from the beginning of the enqueue
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = times::duration)]
    pub(crate) wait_timeout: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Show all that is known of a job
    Show {
        /// Its id
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Print what the last attempt of a job printed and said
    #[command(after_help = "\
Each line tells when it came, counted from the beginning of the attempt, and where it comes from: out
and err are what the job's process wrote, said is what its handler said. The newest 64 KiB are kept, as
long as the job is remembered. A log is written when its attempt has ended.")]
    Log {
        /// Its id
        #[arg(value_name = "ID")]
        id: String,
    },
    /// List jobs, newest first
    List {
        #[command(flatten)]
        filter: FilterArgs,
    },
    /// Wait until jobs have ended
    Wait {
        #[command(flatten)]
        which: WhichArgs,
        /// Wait no longer than this
        #[arg(long, value_name = "DURATION", value_parser = times::duration)]
        timeout: Option<Duration>,
    },
    /// Cancel jobs: waiting ones will not start, running ones are asked to stop
    Cancel(ActArgs),
    /// Try dead jobs again
    #[command(after_help = "\
Examples:
  millhand job retry 019ab3c2-5d1e-8c40-9a1b-3f2e5d6c7b00
  millhand job retry --state dead --task report          shows what it finds, and asks
  millhand job retry --state dead --task report --yes --expect 1204")]
    Retry(ActArgs),
    /// Run scheduled jobs now
    RunNow(ActArgs),
    /// Forget jobs that ended
    Drop(ActArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ChildCheckArgs {
    /// A task of the child whose job must succeed
    #[arg(long, value_name = "NAME")]
    pub(crate) task: Option<TaskName>,
    /// Its arguments as JSON [default: null]
    #[arg(long, value_name = "JSON", allow_hyphen_values = true, requires = "task")]
    pub(crate) args: Option<String>,
    /// How long the hello, an answer, or an end may take
    #[arg(long, value_name = "DURATION", value_parser = times::duration, default_value = "5s")]
    pub(crate) within: Duration,
    /// The child's program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(crate) command: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct FilterArgs {
    /// In these states: scheduled, queued, running, retrying, succeeded, dead, cancelled, expired
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = state)]
    pub(crate) state: Vec<State>,
    /// Of this task
    #[arg(long, value_name = "NAME")]
    pub(crate) task: Option<TaskName>,
    /// Of this queue
    #[arg(long, value_name = "NAME")]
    pub(crate) queue: Option<QueueName>,
    /// At most so many [default: 50 in a list, 10000 for acts]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: Option<u32>,
}

impl FilterArgs {
    /// Whether nothing was asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.state.is_empty() && self.task.is_none() && self.queue.is_none()
    }
}

/// Jobs by id, or by a filter.
#[derive(Clone, Debug, Args)]
pub(crate) struct WhichArgs {
    /// Ids
    #[arg(value_name = "ID", conflicts_with_all = ["state", "task", "queue", "limit"])]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ActArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    #[command(flatten)]
    pub(crate) confirm: ConfirmArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ConfirmArgs {
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Refuse when the count is another
    #[arg(long, value_name = "N")]
    pub(crate) expect: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// List queues with what waits in them
    List,
    /// Deliver nothing from a queue until it is resumed
    Pause {
        /// The queue
        queue: QueueName,
    },
    /// Deliver from a queue again
    Resume {
        /// The queue
        queue: QueueName,
    },
    /// Cancel all that waits in a queue and is due; this cannot be undone
    Purge {
        /// The queue
        queue: QueueName,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// Remember dead jobs again whose records the store lost, from their backup in RabbitMQ
    Rebuild,
}

fn state(text: &str) -> Result<State, String> {
    text.parse()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_help_names_tls_and_its_parameters() {
        let help = Cli::command().render_long_help().to_string();
        for url in ["amqps://HOST", "rediss://HOST"] {
            let line = help.split_once(url).unwrap().1;
            assert!(line.starts_with(" with ?ca=FILE"), "{help}");
        }
    }

    #[test]
    fn the_command_line_is_well_formed_and_takes_settings_after_the_command() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from([
            "millhand",
            "job",
            "list",
            "--broker",
            "memory:",
            "--state",
            "dead,expired",
        ]);
        let cli = cli.unwrap();
        assert_eq!(cli.global.broker.as_deref(), Some("memory:"));
        let Command::Job(JobCommand::List { filter }) = cli.command else {
            panic!()
        };
        assert_eq!(filter.state, [State::Dead, State::Expired]);
        for bad in [
            &["job", "list", "--state", "ded"][..],
            &["job", "cancel", "x", "--state", "dead"],
            &["enqueue", "Bad Name"],
            &["enqueue", "a", "--args", "1", "--args-file", "f"],
            &["enqueue", "a", "--retries", "1001"],
            &["enqueue", "a", "--wait-timeout", "5s"],
            &["enqueue", "a", "--priority", "urgent"],
            &["dashboard", "--bind", "0.0.0.0:7700"],
        ] {
            assert!(Cli::try_parse_from(["millhand"].iter().chain(bad)).is_err(), "{bad:?}");
        }
    }
}
