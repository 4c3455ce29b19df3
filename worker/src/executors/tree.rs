//! A process and what it started, as Linux tells it: how much memory they hold, and who is left. Elsewhere
//! nothing is known.

use std::fs::read_to_string;

/// Processes that one look follows: what a job starts beyond is not seen.
const FOLLOWED: usize = 256;

/// Bytes of memory that one process holds. `None` when it is gone, or the system does not tell.
pub(super) fn resident(pid: u32) -> Option<u64> {
    let text = read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * u64::try_from(rustix::param::page_size()).ok()?)
}

/// The same with all that it started.
pub(super) fn resident_with_descendants(pid: u32) -> Option<u64> {
    let own = resident(pid)?;
    Some(descendants(pid).into_iter().filter_map(resident).sum::<u64>() + own)
}

/// What a process started, and what that started, as far as nobody in between has ended.
pub(super) fn descendants(pid: u32) -> Vec<u32> {
    let mut found = started(pid);
    let mut at = 0;
    while at < found.len() && found.len() < FOLLOWED {
        found.extend(started(found[at]));
        at += 1;
    }
    found
}

/// Descendants that have not ended.
pub(super) fn alive(pid: u32) -> usize {
    descendants(pid).into_iter().filter(|pid| lives(*pid)).count()
}

/// Whether a process has not ended; a dead one stays in sight until its parent has looked after it.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name in brackets, which may hold anything.
    let name = stat.iter().rposition(|byte| *byte == b')');
    let state = name.and_then(|at| stat.get(at + 2));
    !matches!(state, None | Some(b'Z' | b'X'))
}

/// What the threads of a process started and have not lost.
fn started(pid: u32) -> Vec<u32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for thread in threads.flatten() {
        let children = read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    found
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_started_is_found_until_it_has_ended() {
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & wait"])
            .spawn()
            .unwrap();
        while alive(shell.id()) == 0 {
            std::thread::yield_now();
        }
        let sleep = descendants(shell.id())[0];
        assert!(descendants(std::process::id()).contains(&sleep));
        assert!(resident_with_descendants(shell.id()) > resident(shell.id()));
        let pid = rustix::process::Pid::from_raw(i32::try_from(sleep).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        shell.wait().unwrap();
        assert_eq!((resident(shell.id()), alive(shell.id())), (None, 0));
    }
}
