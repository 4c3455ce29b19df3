//! The demo, as the program runs it, on small folders of all kinds.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::place;

/// A folder for the program's temporary files, so that what it leaves behind is seen.
struct Bench {
    temporary: TempDir,
    tree: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            temporary: tempfile::tempdir().unwrap(),
            tree: tempfile::tempdir().unwrap(),
        }
    }

    fn write(&self, name: impl AsRef<Path>, data: impl AsRef<[u8]>) {
        let path = self.tree.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, data).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millhand"));
        command
            .arg("demo")
            .args(args)
            .env("TMPDIR", self.temporary.path())
            .current_dir(self.tree.path());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it on the whole tree and reads the document.
    fn document(&self) -> Value {
        let output = self.run(&[".", "--json"]);
        assert!(output.status.success(), "{output:?}");
        self.is_clean();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Nothing but the page lies in the folder for temporary files.
    fn is_clean(&self) {
        for entry in std::fs::read_dir(self.temporary.path()).unwrap() {
            assert_eq!(entry.unwrap().file_name(), "millhand-demo.html");
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_ordinary_folder_is_counted_and_proved() {
    let bench = Bench::new();
    bench.write("a/text", "The quick fox.\nThe end, the END\n");
    bench.write("b", "one two");
    let output = bench.run(&["."]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}{}", text(&output.stderr));
    for line in [
        "2 in 2 folders",
        "39 (39 B)",
        "top words the 3, end 2, fox 1",
        "✓ 2 files",
        "millhand-demo.html",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert!(text(&output.stderr).is_empty(), "{}", text(&output.stderr));
    bench.is_clean();
    let page = std::fs::read_to_string(bench.temporary.path().join("millhand-demo.html")).unwrap();
    assert!(page.contains("Proved") && page.contains("<svg"));
    for never in ["<script", "http://", "https://", " style=", "src=", "url("] {
        assert!(!page.contains(never), "{never}");
    }

    let document = bench.document();
    assert_eq!(document["schema"], "millhand.demo/1");
    let figures = ["files", "total_bytes", "lines", "words", "jobs", "attempts", "failed"].map(|key| &document[key]);
    assert_eq!(figures, [2, 39, 2, 9, 4, 4, 0]);
    assert_eq!(document["proof"]["holds"], true);
    assert_eq!(document["top_words"][0]["word"], "the");
}

#[test]
fn a_spoiled_piece_makes_the_proof_fail() {
    let bench = Bench::new();
    bench.write("empty", "");
    bench.write("one", "alpha beta");
    bench.write("two", "gamma");
    let output = bench.run(&[".", "--spoil"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let shown = text(&output.stdout);
    assert!(
        shown.contains('✗') && shown.contains("another digest of its pieces"),
        "{shown}"
    );
    let document: Value = serde_json::from_slice(&bench.run(&[".", "--spoil", "--json"]).stdout).unwrap();
    assert_eq!(document["proof"]["holds"], false);
    assert!(
        document["proof"]["differences"]["count"].as_u64().unwrap() >= 4,
        "{document}"
    );
    bench.is_clean();
}

#[test]
fn an_empty_folder_is_proved_too() {
    let bench = Bench::new();
    let document = bench.document();
    assert_eq!((&document["files"], &document["jobs"]), (&0.into(), &0.into()));
    let output = bench.run(&["."]);
    assert!(
        output.status.success() && text(&output.stdout).contains("✓ 0 files"),
        "{output:?}"
    );
}

#[test]
fn a_folder_with_everything_odd_in_it_is_counted_and_proved() {
    let bench = Bench::new();
    let tree = bench.tree.path();
    bench.write(OsStr::from_bytes(b"n\xff\xfeme/f\n\x1b[31m"), "odd name");
    bench.write("<script>alert(1)</script>", "<b>markup</b> <script>");
    bench.write("empty", "");
    // Noise, with every byte, and runs without white space that are longer than a piece.
    let mut seed = 7_u64;
    let noise = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed.to_be_bytes()[0]
    });
    let noise: Vec<u8> = noise.take(1_700_000).collect();
    bench.write("noise", &noise);
    bench.write("zeros", vec![0; 1_300_000]);
    let mut edge = b"word".to_vec();
    edge.resize(600_000, b'!');
    edge.extend_from_slice(b"x tail\n");
    bench.write("edge", edge);
    bench.write("exact", vec![b' '; 512 << 10]);
    bench.write("lines", "some words in a line\n".repeat(60_000));
    symlink("..", tree.join("loop")).unwrap();
    symlink("nowhere", tree.join("dangling")).unwrap();
    symlink("empty", tree.join("to a file")).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(tree.join("pipe"))
            .status()
            .unwrap()
            .success()
    );
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();

    let document = bench.document();
    let figures = ["files", "links", "special"].map(|key| &document[key]);
    assert_eq!(figures, [8, 3, 2]);
    assert_eq!(document["proof"]["totals_compared"], true);
    let output = bench.run(&["."]);
    assert!(output.status.success(), "{output:?}");
    assert!(!text(&output.stdout).contains('\u{1b}'));
}

#[test]
fn what_cannot_be_read_is_passed_over_and_said() {
    let bench = Bench::new();
    bench.write("open", "some text");
    bench.write("shut/inside", "hidden text");
    bench.write("closed", "closed text");
    let mode = |name: &str, mode| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(bench.tree.path().join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("shut", 0);
    mode("closed", 0);
    let readable = std::fs::read(bench.tree.path().join("closed")).is_ok();
    let document = bench.document();
    // The superuser reads everything.
    let (files, unreadable) = if readable { (3, 0) } else { (1, 2) };
    assert_eq!(
        (&document["files"], &document["unreadable"]["count"]),
        (&files.into(), &unreadable.into())
    );
    mode("shut", 0o700);
}

#[test]
fn without_a_folder_hidden_ones_and_target_are_passed_over() {
    let bench = Bench::new();
    bench.write("src/a", "kept");
    bench.write(".git/b", "not");
    bench.write("target/c", "not");
    let output = bench.run(&["--json"]);
    assert!(
        text(&output.stderr).contains("without hidden folders and target"),
        "{output:?}"
    );
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&document["files"], &document["passed_folders"]),
        (&1.into(), &2.into())
    );
    assert_eq!(bench.document()["files"], 3, "all, when the folder is named");
}

#[test]
fn files_that_change_meanwhile_are_left_out_of_the_proof() {
    let bench = Bench::new();
    for n in 0..400 {
        bench.write(format!("steady/{n}"), "the same text all the time\n".repeat(200));
    }
    let mut child = bench.command(&[".", "--json"]).spawn().unwrap();
    let mut n = 0;
    while child.try_wait().unwrap().is_none() {
        bench.write("growing", "more and more\n".repeat(n % 1000));
        bench.write(format!("coming/{}", n % 50), "here");
        let _ = std::fs::remove_file(bench.tree.path().join(format!("coming/{}", (n + 25) % 50)));
        n += 1;
    }
    let output = child.wait_with_output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{document}");
    assert!(document["proof"]["files"].as_u64().unwrap() >= 400, "{document}");
    bench.is_clean();
}

#[test]
fn the_folder_for_temporary_files_itself_can_be_read() {
    let bench = Bench::new();
    std::fs::write(bench.temporary.path().join("other"), "some words").unwrap();
    let output = bench.run(&[bench.temporary.path().to_str().unwrap(), "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&document["files"], &document["proof"]["holds"]),
        (&1.into(), &true.into()),
        "{document}"
    );
}

#[test]
fn bad_arguments_are_refused_before_anything_is_done() {
    let bench = Bench::new();
    bench.write("file", "x");
    for args in [
        &["nowhere"][..],
        &["file"],
        &[".", "--report", "no/where.html"],
        &[".", "--report", "."],
    ] {
        let output = bench.run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
    }
    let output = bench.command(&["."]).env("MILLHAND_CHILD", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    bench.is_clean();
    let report = bench.temporary.path().join("millhand-demo.html");
    assert!(!report.exists());
    assert!(bench.run(&[".", "--report", "mine.html"]).status.success());
    assert!(bench.tree.path().join("mine.html").exists() && !report.exists());
}

/// The processes whose parent is `pid`.
fn children(pid: u32) -> Vec<u32> {
    let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut all: Vec<u32> = listed.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    // Children belong to the thread that started them.
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let listed = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(listed.split_whitespace().filter_map(|n| n.parse::<u32>().ok()));
    }
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
#[cfg(target_os = "linux")]
fn ctrl_c_leaves_nothing_behind() {
    let bench = Bench::new();
    for n in 0..3000 {
        bench.write(format!("{}/{n}", n % 7), "words and more words\n".repeat(100));
    }
    for signal in ["-INT", "-TERM", "-HUP"] {
        let child = bench.command(&["."]).spawn().unwrap();
        // In the middle of the work: when children are there.
        let mut born = Vec::new();
        place::until("children", || {
            born = children(child.id());
            !born.is_empty()
        });
        place::signal(&child, signal);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{signal}: {output:?}");
        assert!(output.stdout.is_empty(), "{signal}: {output:?}");
        for pid in born {
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{signal}: {pid} goes on");
        }
        assert_eq!(
            std::fs::read_dir(bench.temporary.path()).unwrap().count(),
            0,
            "{signal}"
        );
    }
}

/// `./scripts/test --long` takes a bigger one.
#[test]
fn a_huge_file_without_white_space_is_read_in_sections() {
    let bench = Bench::new();
    // Without white space: one word, which no piece may be cut at.
    let bytes: u64 = if std::env::var_os("MILLHAND_LONG").is_some() {
        300_000_000
    } else {
        20_000_000
    };
    let file = std::fs::File::create(bench.tree.path().join("sparse")).unwrap();
    file.set_len(bytes).unwrap();
    let document = bench.document();
    assert_eq!(
        (&document["total_bytes"], &document["words"]),
        (&bytes.into(), &1.into())
    );
}
