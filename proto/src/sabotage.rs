//! Bugs that are planted on purpose, to see that the tests of what is promised fail with each of them
//! (`scripts/sabotage`). With the feature `sabotage` only: else every question here is answered by "no" when
//! the program is built.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A delivery is acknowledged before what follows from it is published.
    AckBeforeConfirm,
    /// A copy whose record is missing is dropped.
    DropOnMissing,
    /// Any claim may write a job's end, not only the newest.
    IgnoreFence,
    /// A successor keeps the hand of the copy that it follows.
    HandNotRaised,
    /// That a successor is in the queue is written before it is published.
    MarkedEarly,
    /// Two claims of one number are taken for one.
    TokenNotChecked,
    /// Nobody waits for the confirm of a copy that goes back.
    ReleaseWithoutConfirm,
}

/// All, by the names that `MILLHAND_SABOTAGE` takes.
pub const BUGS: &[(&str, Bug)] = &[
    ("ack-before-confirm", Bug::AckBeforeConfirm),
    ("drop-on-missing", Bug::DropOnMissing),
    ("ignore-fence", Bug::IgnoreFence),
    ("hand-not-raised", Bug::HandNotRaised),
    ("marked-early", Bug::MarkedEarly),
    ("token-not-checked", Bug::TokenNotChecked),
    ("release-without-confirm", Bug::ReleaseWithoutConfirm),
];

/// Whether this bug is planted here.
#[cfg(not(feature = "sabotage"))]
#[inline(always)]
#[must_use]
pub const fn planted(_: Bug) -> bool {
    false
}

/// Whether this bug is planted here: the environment names it. Who names a bug that there is not is ended, since
/// a test that plants nothing would prove nothing.
#[cfg(feature = "sabotage")]
#[must_use]
pub fn planted(bug: Bug) -> bool {
    static PLANTED: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
    let planted = PLANTED.get_or_init(|| {
        let name = std::env::var("MILLHAND_SABOTAGE").ok()?;
        let found = BUGS.iter().find(|(known, _)| *known == name);
        if found.is_none() {
            eprintln!("MILLHAND_SABOTAGE: there is no bug {name}");
            std::process::exit(64);
        }
        found.map(|(_, bug)| *bug)
    });
    *planted == Some(bug)
}
