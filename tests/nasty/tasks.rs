//! The worker's tasks: one in Rust, a command for each deed, and the example's Python child.

use std::sync::Arc;
use std::time::Duration;

use millhand::{
    Backend, CommandKind, CommandTask, Job, Payload, RetryWish, Slots, Task, TaskName, TaskOptions, TimeLimits, Worker,
};
use millhand_client::RawJob;
use serde::{Deserialize, Serialize};

use crate::cage::Cage;
use crate::deeds::{Bomb, Deed, Nasty, act};

/// One for the nasty job, one for the good ones.
pub const SLOTS: usize = 2;
/// The memory that a nasty job may hold.
const MEMORY: u64 = 128 << 20;
/// What it takes if nobody ends it, in MiB: no machine is to suffer from a worker that does not.
const HUNGER: usize = 4096;
/// Limits of a job that would run for ever, and of one that would sleep on.
pub const SPIN: Duration = Duration::from_millis(500);
const SOFT: Duration = Duration::from_millis(300);
pub const DEAF: Duration = Duration::from_millis(800);
/// Long enough for a bomb to fill its cage.
pub const BOMB: Duration = Duration::from_secs(3);

/// A bomb for a command and for a Python child. In a full cage it tries on slowly, so that what a good job waits
/// for is not a core.
const BOMB_IN_PYTHON: &str = "
import os, time
def bomb(*_):
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.1)
";
const BOMB_IN_A_CHILD: &str = "
import child
child.task('python.bomb')(bomb)
child.serve()
";

#[derive(Serialize, Deserialize)]
pub struct Good {
    pub n: usize,
}

impl Task for Good {
    const NAME: &'static str = "good";
    type Output = usize;
}

/// Where a nasty job runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Rust,
    Command,
    Python,
}

/// All of them.
pub const KINDS: [Kind; 3] = [Kind::Rust, Kind::Command, Kind::Python];

/// How much a flood is, in MiB.
pub fn flood() -> usize {
    if std::env::var_os("MILLHAND_LONG").is_some() {
        1024
    } else {
        64
    }
}

/// Its first crash, error or timeout is a job's end.
fn options(soft: Option<Duration>) -> TaskOptions {
    TaskOptions {
        limits: TimeLimits {
            soft_ms: soft.map(|soft| soft.as_millis().try_into().unwrap()),
            hard_ms: Some(300_000),
        },
        retry: RetryWish {
            retries: Some(0),
            ..RetryWish::default()
        },
        crashes: Some(1),
        memory: Some(MEMORY),
        ..TaskOptions::default()
    }
}

/// Of a bomb's many processes each would count whole.
fn without_memory_limit(options: TaskOptions) -> TaskOptions {
    TaskOptions {
        memory: None,
        ..options
    }
}

/// Those that a child of this program knows.
pub fn in_rust(worker: Worker) -> Worker {
    worker
        .on_process(|job: Good, _| Ok(job.n))
        .on_process_with(options(Some(SOFT)), act)
        .on_process_with(without_memory_limit(options(None)), |bomb: Bomb, _| bomb.explode())
}

pub fn worker(backend: Arc<dyn Backend>, cage: Option<&Cage>) -> Worker {
    let slots = Slots {
        asyncs: 0,
        threads: 0,
        processes: SLOTS,
    };
    let worker = in_rust(Worker::new(backend).slots(slots));
    let commands = Deed::ALL.into_iter().filter_map(|deed| command(deed, cage));
    commands.chain(children(cage)).fold(worker, Worker::command)
}

fn command(deed: Deed, cage: Option<&Cage>) -> Option<CommandTask> {
    let hunger = format!("held = [bytearray(b'x') * (1 << 20) for _ in range({HUNGER})]");
    let flood = (flood() << 20).to_string();
    let command = match deed {
        Deed::Spin => words(["sh", "-c", "while :; do :; done"]),
        Deed::Abort => words(["python3", "-c", "import os; os.abort()"]),
        Deed::Segfault => words(["python3", "-c", "import ctypes; ctypes.string_at(0)"]),
        Deed::ExitZero => words(["sh", "-c", "printf '[1, 2'; exit 0; printf ', 3]'"]),
        Deed::Bomb => cage?.enter(["python3", "-c", &format!("{BOMB_IN_PYTHON}bomb()")]),
        Deed::Hunger => words(["python3", "-c", &hunger]),
        Deed::Flood => words(["sh", "-c", "head -c $0 /dev/zero | tr '\\0' x", &flood]),
        Deed::ClosedPipe => words(["sh", "-c", "exec <&- >&- 2>&-; sleep 0.3"]),
        Deed::Orphan => words(["sh", "-c", "sleep 600 & echo $!"]),
        Deed::Deaf => words([
            "sh",
            "-c",
            "trap 'echo asked to end, and sleeps on >&2' TERM; while :; do sleep 600; done",
        ]),
    };
    let options = match deed {
        Deed::Bomb => without_memory_limit(options(None)),
        Deed::Deaf => options(Some(SOFT)),
        _ => options(None),
    };
    Some(CommandTask {
        name: command_name(deed),
        command,
        kind: CommandKind::Command,
        options,
    })
}

/// The example's child, and the same in a cage.
fn children(cage: Option<&Cage>) -> impl Iterator<Item = CommandTask> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/python-child");
    let child = |name: &str, command: Vec<String>, options: TaskOptions| CommandTask {
        name: TaskName::new(name).unwrap(),
        command,
        kind: CommandKind::Child,
        options,
    };
    let free = words(["python3", &format!("{folder}/example.py")]);
    let free = child("misbehave", free, options(Some(SOFT)));
    let caged = cage.map(|cage| {
        let path = format!("PYTHONPATH={folder}");
        let command = cage.enter([
            "env",
            &path,
            "python3",
            "-c",
            &format!("{BOMB_IN_PYTHON}{BOMB_IN_A_CHILD}"),
        ]);
        child("python.bomb", command, without_memory_limit(options(None)))
    });
    std::iter::once(free).chain(caged)
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

fn command_name(deed: Deed) -> TaskName {
    TaskName::new(&format!("command.{deed:?}").to_lowercase()).unwrap()
}

/// A nasty job.
pub fn job(deed: Deed, kind: Kind, cage: Option<&Cage>) -> RawJob {
    let job = match kind {
        Kind::Rust if deed == Deed::Bomb => Job::of(Bomb {
            cage: cage.unwrap().path().into(),
        })
        .into_raw()
        .unwrap(),
        Kind::Rust => Job::of(Nasty {
            deed,
            flood: flood(),
            hunger: HUNGER,
        })
        .into_raw()
        .unwrap(),
        Kind::Command => RawJob::new(command_name(deed), Payload::json("null").unwrap()),
        Kind::Python => in_python(deed),
    };
    match deed {
        Deed::Spin => job.timeout(SPIN),
        Deed::Deaf => job.timeout(DEAF),
        Deed::Bomb => job.timeout(BOMB),
        _ => job,
    }
}

fn in_python(deed: Deed) -> RawJob {
    let (task, args) = match deed {
        Deed::Bomb => ("python.bomb", "null".to_owned()),
        Deed::Spin => ("misbehave", how("spin", "")),
        Deed::Abort => ("misbehave", how("abort", "")),
        Deed::Segfault => ("misbehave", how("segv", "")),
        Deed::ExitZero => ("misbehave", how("exit0", "")),
        Deed::Hunger => ("misbehave", how("alloc", &format!(r#", "most": {HUNGER}"#))),
        Deed::Flood => ("misbehave", how("print_flood", &format!(r#", "mib": {}"#, flood()))),
        Deed::ClosedPipe => ("misbehave", how("close_stdin", "")),
        Deed::Orphan => ("misbehave", how("orphan", r#", "session": true"#)),
        Deed::Deaf => ("misbehave", how("ignore_soft", "")),
    };
    RawJob::new(TaskName::new(task).unwrap(), Payload::json(args).unwrap())
}

fn how(how: &str, more: &str) -> String {
    format!(r#"{{"how": "{how}"{more}}}"#)
}
