//! Imports run strictly downwards: reads the manifests and keeps that true.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;

/// Folder, package, floor. A crate uses crates of lower floors only.
const HOUSE: &[(&str, &str, u8)] = &[
    ("proto", "millhand-proto", 0),
    ("broker", "millhand-broker", 1),
    ("client", "millhand-client", 2),
    ("worker", "millhand-worker", 3),
    ("dashboard", "millhand-dashboard", 3),
    ("cli", "millhand-cli", 4),
    (".", "millhand", 4),
    // Above all that users get: they may use it in their tests only.
    ("tests/servers", "millhand-servers", 5),
    // Brings the servers that it measures.
    ("bench", "millhand-bench", 6),
    ("faults", "millhand-faults", 6),
];

/// All that `proto` may use. Nothing here does I/O, keeps a clock or starts a thread; keep it so.
const PURE: &[&str] = &["bytes", "rmp", "rmp-serde", "serde", "serde_json", "thiserror", "uuid"];

/// The packages that a manifest uses outside its tests: `[dependencies]` and `[build-dependencies]`,
/// also of a target, in both spellings (`name = …` below the heading, or a heading of its own).
fn dependencies(manifest: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut inside = false;
    let mut own_heading = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(heading) = line.strip_prefix('[') {
            let heading = heading.split(']').next().unwrap().trim();
            let (table, own) = split_heading(heading);
            inside = table == "dependencies" || table == "build-dependencies";
            own_heading = inside && own.is_some();
            if let (true, Some(name)) = (inside, own) {
                found.push(name.to_owned());
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| inside && !line.starts_with('#')) else {
            continue;
        };
        if own_heading {
            if key.trim() == "package" {
                found.pop();
                found.push(value.split('"').nth(1).unwrap().to_owned());
            }
            continue;
        }
        let name = key.split('.').next().unwrap().trim().trim_matches('"');
        let renamed = value.split_once("package").and_then(|(_, rest)| rest.split('"').nth(1));
        found.push(renamed.unwrap_or(name).to_owned());
    }
    found
}

/// `target.'cfg(unix)'.dependencies.tokio` → (`dependencies`, `tokio`).
fn split_heading(heading: &str) -> (&str, Option<&str>) {
    let table = match heading.strip_prefix("target.") {
        Some(target) => target.find("dependencies").map_or(target, |at| {
            let start = target[..at].rfind('.').map_or(0, |dot| dot + 1);
            &target[start..]
        }),
        None => heading,
    };
    match table.split_once('.') {
        Some((table, name)) => (table, Some(name.trim_matches('"'))),
        None => (table, None),
    }
}

/// What is wrong with the manifest of `package`.
fn wrongs(package: &str, manifest: &str) -> Vec<String> {
    let floor = |name: &str| HOUSE.iter().find(|(_, p, _)| *p == name).map(|(_, _, floor)| *floor);
    let own = floor(package).unwrap();
    let mut wrongs = Vec::new();
    for name in dependencies(manifest) {
        match floor(&name) {
            Some(other) if other >= own => wrongs.push(format!("{package} uses {name}, which is not below it")),
            Some(_) => {}
            None if name.starts_with("millhand") => {
                wrongs.push(format!("{package} uses {name}, which has no floor in this test"));
            }
            None if own == 0 && !PURE.contains(&name.as_str()) => {
                wrongs.push(format!("{package} is pure and uses {name}, which is not on its list"));
            }
            None => {}
        }
    }
    wrongs
}

fn read(folder: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join("Cargo.toml");
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn imports_run_strictly_downwards() {
    let mut all = Vec::new();
    for (folder, package, _) in HOUSE {
        let manifest = read(folder);
        assert!(
            manifest.contains(&format!("name = \"{package}\"")),
            "{folder} is not {package}"
        );
        assert!(
            !dependencies(&manifest).is_empty(),
            "no dependency found in {folder}: is its manifest read rightly?"
        );
        all.extend(wrongs(package, &manifest));
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn every_member_has_a_floor() {
    let root = read(".");
    let members = root.lines().find_map(|line| line.strip_prefix("members = [")).unwrap();
    let members: Vec<_> = members.split('"').skip(1).step_by(2).collect();
    assert!(members.contains(&"proto"), "{members:?}");
    for member in members {
        assert!(
            HOUSE.iter().any(|(folder, _, _)| *folder == member),
            "{member} has no floor in this test"
        );
    }
}

#[test]
fn a_planted_wrong_dependency_is_seen() {
    let bad = [
        ("millhand-broker", "[dependencies]\nmillhand-client.workspace = true"),
        ("millhand-broker", "[dependencies]\nmillhand-broker = { path = \".\" }"),
        ("millhand-client", "[dependencies.millhand-worker]\npath = \"w\""),
        (
            "millhand-client",
            "[dependencies.w]\npath = \"w\"\npackage = \"millhand-worker\"",
        ),
        (
            "millhand-worker",
            "[dependencies]\nserde = \"1\"\nx = { package = \"millhand-cli\", path = \"../cli\" }",
        ),
        ("millhand-worker", "[build-dependencies]\nmillhand = { path = \"..\" }"),
        ("millhand-cli", "[dependencies]\nmillhand-bench.workspace = true"),
        ("millhand-cli", "[dependencies]\nmillhand-new.workspace = true"),
        (
            "millhand-proto",
            "[dependencies]\nserde.workspace = true\ntokio.workspace = true",
        ),
        (
            "millhand-proto",
            "[target.'cfg(not(windows))'.dependencies]\nrusqlite = \"0.42\"",
        ),
        (
            "millhand-proto",
            "[target.'cfg(unix)'.dependencies.rustix]\nversion = \"1\"",
        ),
    ];
    for (package, manifest) in bad {
        assert_eq!(wrongs(package, manifest).len(), 1, "{package}: {manifest}");
    }
    let good = [
        (
            "millhand-broker",
            "[package]\nname = \"x\"\n[dependencies]\nmillhand-proto.workspace = true\ntokio = \"1\"",
        ),
        (
            "millhand-proto",
            "[dependencies]\nserde = { version = \"1\", features = [\n  \"derive\",\n] }\n[dev-dependencies]\ntokio = \"1\"",
        ),
        (
            "millhand-client",
            "[dependencies]\n# millhand-worker = \"1\"\nmillhand-broker.workspace = true",
        ),
    ];
    for (package, manifest) in good {
        assert_eq!(wrongs(package, manifest), [""; 0], "{package}: {manifest}");
    }
}
