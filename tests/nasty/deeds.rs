//! What a nasty job does, and how a Rust handler does it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use millhand::{Context, Failure, Task};
use serde::{Deserialize, Serialize};

use crate::cage;

/// In the environment of a fork bomb's processes: their cage.
const BOMB: &str = "MILLHAND_NASTY_BOMB";
/// A bomb ends by itself, should nobody end it.
const BOMB_LASTS: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Deed {
    /// Loops for ever.
    Spin,
    Abort,
    Segfault,
    /// Ends its process in the middle, as if all were well.
    ExitZero,
    /// Starts processes, which start processes, in a cage.
    Bomb,
    /// Takes memory without end.
    Hunger,
    /// Prints much more than anybody wants.
    Flood,
    /// Closes its end of what the worker hears it by, and goes on.
    ClosedPipe,
    /// Leaves a process behind that would outlive it.
    Orphan,
    /// Does not end when it is asked to.
    Deaf,
}

impl Deed {
    pub const ALL: [Self; 10] = [
        Self::Spin,
        Self::Abort,
        Self::Segfault,
        Self::ExitZero,
        Self::Bomb,
        Self::Hunger,
        Self::Flood,
        Self::ClosedPipe,
        Self::Orphan,
        Self::Deaf,
    ];
}

/// Does it in a Rust child.
#[derive(Serialize, Deserialize)]
pub struct Nasty {
    pub deed: Deed,
    /// MiB that it prints.
    pub flood: usize,
    /// MiB that it takes, should nobody end it.
    pub hunger: usize,
}

impl Task for Nasty {
    const NAME: &'static str = "rust";
    type Output = String;
}

pub fn act(job: Nasty, cx: Context) -> Result<String, Failure> {
    match job.deed {
        Deed::Spin => loop {
            std::hint::spin_loop();
        },
        Deed::Abort => std::process::abort(),
        Deed::Segfault => loop {
            // The first one only takes away the handler that Rust has for stacks that overflow.
            let this = rustix::process::getpid();
            rustix::process::kill_process(this, rustix::process::Signal::SEGV)?;
            std::thread::sleep(Duration::from_millis(1));
        },
        Deed::ExitZero => std::process::exit(0),
        Deed::Bomb => Err(Failure::fatal("no bomb without a cage")),
        Deed::Hunger => {
            let mut held = Vec::new();
            for _ in 0..job.hunger {
                held.push(vec![1_u8; 1 << 20]);
                std::hint::black_box(&held);
            }
            sleep_on()
        }
        Deed::Flood => {
            let line = "x".repeat(1023);
            for _ in 0..job.flood << 10 {
                println!("{line}");
            }
            Ok("printed".to_owned())
        }
        Deed::ClosedPipe => {
            rustix::net::shutdown(std::io::stdin(), rustix::net::Shutdown::Write)?;
            sleep_on()
        }
        Deed::Orphan => {
            let orphan = Command::new("sleep").arg("600").spawn()?;
            // What a job of no time leaves behind ends too, but its log does not say so.
            std::thread::sleep(Duration::from_millis(20));
            Ok(orphan.id().to_string())
        }
        Deed::Deaf => {
            while !cx.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            cx.log("asked to end, and sleeps on");
            sleep_on()
        }
    }
}

fn sleep_on() -> ! {
    std::thread::sleep(Duration::from_secs(600));
    panic!("nobody ended it");
}

/// A fork bomb in a Rust child.
#[derive(Serialize, Deserialize)]
pub struct Bomb {
    pub cage: PathBuf,
}

impl Task for Bomb {
    const NAME: &'static str = "rust.bomb";
    type Output = String;
}

impl Bomb {
    pub fn explode(&self) -> ! {
        cage::enter_self(&self.cage);
        explode(&self.cage)
    }
}

/// What a bomb has started goes on here.
pub fn explode_if_told() {
    if let Some(cage) = std::env::var_os(BOMB) {
        explode(Path::new(&cage));
    }
}

fn explode(cage: &Path) -> ! {
    cage::assert_caged(cage);
    let began = Instant::now();
    while began.elapsed() < BOMB_LASTS {
        let mut another = Command::new("/proc/self/exe");
        another
            .env(BOMB, cage)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if another.spawn().is_err() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    std::process::exit(0)
}
