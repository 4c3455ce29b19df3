//! A process and what it started, as Linux tells it: how much memory they hold, and who is left. Elsewhere
//! nothing is known.

use std::fs::read_to_string;

use rustix::process::{Pid, test_kill_process_group};

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

/// Whether a process has not ended.
fn lives(pid: u32) -> bool {
    group_of(&pid.to_string()).is_some()
}

/// How many processes of a group have not ended; where the system does not tell their number, 1.
pub(crate) fn members(group: Pid) -> usize {
    // The usual case, and cheap. Dead ones that nobody has looked after, as in a container without an init,
    // are still found by it.
    if test_kill_process_group(group).is_err() {
        return 0;
    }
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return 1;
    };
    let group = group.as_raw_nonzero().get();
    let groups = processes
        .flatten()
        .filter_map(|process| group_of(&process.file_name().to_string_lossy()));
    groups.filter(|of| *of == group).count()
}

/// The group of a process that has not ended; a dead one stays in sight until its parent has looked after
/// it.
fn group_of(process: &str) -> Option<i32> {
    let stat = std::fs::read(format!("/proc/{process}/stat")).ok()?;
    // After the name in brackets, which may hold anything: state, parent, group.
    let name = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(stat.get(name + 2..)?).ok()?.split(' ');
    let state = fields.next()?;
    let group = fields.nth(1)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(group)
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
    #[test]
    fn the_living_of_a_group_are_counted_after_their_leader_has_ended() {
        use std::os::unix::process::CommandExt;
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & sleep 60 &"])
            .process_group(0)
            .spawn()
            .unwrap();
        let group = Pid::from_raw(i32::try_from(shell.id()).unwrap()).unwrap();
        shell.wait().unwrap();
        assert_eq!(members(group), 2);
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
        while members(group) > 0 {
            std::thread::yield_now();
        }
    }
}
