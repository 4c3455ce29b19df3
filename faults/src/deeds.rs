//! What a job does to the process that it runs in.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use millhand_worker::Failure;
use rustix::process::{Signal, getpid, kill_process};

use crate::jobs::Kind;

/// Memory that is taken at once.
const PIECE: usize = 1 << 20;
/// Who takes memory ends by itself, should nobody end it.
const MOST: usize = 4 << 30;

/// Does it, in a child process; most do not come back.
pub(crate) fn act(kind: Kind) -> Result<(), Failure> {
    match kind {
        Kind::Orphan => {
            let mut orphan = Command::new("setsid");
            orphan.args(["sleep", "600"]).stdin(Stdio::null());
            orphan.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            // Until it has a session of its own, and was seen.
            std::thread::sleep(Duration::from_millis(100));
            Ok(())
        }
        Kind::Panic => panic!("it was asked to"),
        Kind::Spin => loop {
            std::hint::spin_loop();
        },
        Kind::Abort => std::process::abort(),
        Kind::Segfault => loop {
            // The first one only takes away the handler that Rust has for stacks that overflow.
            kill_process(getpid(), Signal::SEGV)?;
            std::thread::sleep(Duration::from_millis(1));
        },
        Kind::Exit => std::process::exit(0),
        Kind::Become => Err(Command::new("true").exec().into()),
        Kind::Close => {
            rustix::net::shutdown(io::stdin(), rustix::net::Shutdown::Write)?;
            linger()
        }
        Kind::Garbage => {
            say(&[0xff; 64])?;
            linger()
        }
        Kind::HalfFrame => {
            say(b"\x00\x00\x00\x64\x81\xa4done")?;
            std::process::exit(0)
        }
        Kind::HugeFrame => {
            say(&[0x40, 0, 0, 0, 0x81])?;
            linger()
        }
        Kind::Hunger => take_memory(),
        _ => Ok(()),
    }
}

/// Into the child's socket.
fn say(bytes: &[u8]) -> io::Result<()> {
    rustix::io::write(io::stdin(), bytes)?;
    Ok(())
}

/// Until somebody ends it.
fn linger() -> ! {
    std::thread::sleep(Duration::from_secs(60));
    std::process::exit(3)
}

/// Takes memory, and uses it, until somebody ends it.
pub(crate) fn take_memory() -> ! {
    let mut held = Vec::new();
    for _ in 0..MOST / PIECE {
        held.push(vec![1_u8; PIECE]);
        std::hint::black_box(&held);
    }
    linger()
}
