//! Names that are frozen: what others have written under them must be found for ever.

use std::path::Path;

/// Compares with the file of this name in `broker/tests/golden`.
///
/// # Panics
/// When they differ: a frozen name is not changed, a new version gets a new one.
pub(crate) fn same(name: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("MILLHAND_BLESS").is_some() && !path.exists() {
        std::fs::write(&path, page).expect("the file is written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        kept, page,
        "{name} is frozen: add a new version instead (docs/architecture.md)"
    );
}
