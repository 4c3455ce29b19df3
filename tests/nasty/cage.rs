//! A cgroup that bounds how many processes there are in it, for fork bombs.

use std::fs::{OpenOptions, create_dir, read_to_string, remove_dir};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::SOON;

/// Processes and threads in it.
const MOST: u32 = 64;

/// Goes into the cage that is its first argument, sees that it holds no more than the second, and becomes the
/// rest.
const ENTER: &str = r#"echo $$ > "$1/cgroup.procs" &&
    grep -qx $$ "$1/cgroup.procs" &&
    grep -qx "$2" "$1/pids.max" || exit 66
shift 2
exec "$@""#;

pub struct Cage(PathBuf);

impl Cage {
    /// Makes it where cgroup v1 or v2 lets this process; in words why there is none.
    pub fn new() -> Result<Self, String> {
        let mut why = Vec::new();
        for root in ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"] {
            match Self::below(Path::new(root)) {
                Ok(cage) => return Ok(cage),
                Err(error) => why.push(format!("{root}: {error}")),
            }
        }
        Err(why.join("; "))
    }

    fn below(root: &Path) -> Result<Self, String> {
        let folder = root.join(format!("millhand-nasty-{}", std::process::id()));
        // An earlier process of this number may have been killed.
        let _ = remove_dir(&folder);
        create_dir(&folder).map_err(|error| error.to_string())?;
        // From here on it is taken away again.
        let cage = Self(folder);
        put(&cage.0.join("pids.max"), &MOST.to_string()).map_err(|error| format!("pids.max: {error}"))?;
        let mut probe = cage.enter(["true"]).into_iter();
        let entered = Command::new(probe.next().unwrap()).args(probe).status();
        match entered {
            Ok(status) if status.success() => Ok(cage),
            other => Err(format!("it cannot be entered: {other:?}")),
        }
    }

    /// A command that runs another one inside.
    pub fn enter(&self, command: impl IntoIterator<Item = impl Into<String>>) -> Vec<String> {
        let most = MOST.to_string();
        let enter = ["sh", "-c", ENTER, "cage", self.path(), &most].map(str::to_owned);
        enter.into_iter().chain(command.into_iter().map(Into::into)).collect()
    }

    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// Waits until nobody is inside; the dead are until somebody has buried them.
    pub async fn is_empty(&self) {
        let began = Instant::now();
        while read_to_string(self.0.join("pids.current")).unwrap().trim() != "0" {
            assert!(began.elapsed() < SOON, "somebody is left in {}", self.path());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Processes that it did not let start.
    pub fn refused(&self) -> u64 {
        let events = read_to_string(self.0.join("pids.events")).unwrap();
        let max = events.lines().find_map(|line| line.strip_prefix("max "));
        max.unwrap().parse().unwrap()
    }
}

/// Moves this process into the cage, and sees that it is closed.
pub fn enter_self(cage: &Path) {
    put(&cage.join("cgroup.procs"), "0").unwrap();
    assert_caged(cage);
}

/// Whether this process is inside, and the number is bounded.
pub fn assert_caged(cage: &Path) {
    let most: u32 = read_to_string(cage.join("pids.max")).unwrap().trim().parse().unwrap();
    let inside = read_to_string(cage.join("cgroup.procs")).unwrap();
    let own = std::process::id().to_string();
    assert!(most <= MOST && inside.lines().any(|pid| pid == own), "not in its cage");
}

/// Writes into a file that is there: anywhere but in a cgroup another call would make one.
fn put(file: &Path, text: &str) -> std::io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
}

impl Drop for Cage {
    fn drop(&mut self) {
        // Who was killed may take a moment to go.
        let began = Instant::now();
        while began.elapsed() < SOON {
            if remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("{} could not be taken away: somebody is left in it", self.path());
    }
}
