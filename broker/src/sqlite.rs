//! Queue and store in one SQLite file, shared by any number of processes on one machine.
//!
//! The file is in write-ahead mode with `synchronous = FULL`: what was accepted outlives a power
//! cut. Beside it lies a folder `<file>.workers/` with one lock and one named pipe per process.

use std::path::Path;
use std::sync::Arc;

use crate::backend::Backend;
use crate::error::Result;
use crate::local::{Local, Shared};

/// Opens SQLite files.
#[derive(Debug)]
pub struct Sqlite(());

impl Sqlite {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// When it cannot be opened, is no SQLite database, is another program's, or is newer than
    /// this build.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(Shared(Local::file(path.as_ref())?)))
    }
}
