//! A job that does nothing.

use millhand_proto::Task;
use serde::{Deserialize, Serialize};

/// Bytes of arguments of each job.
pub(crate) const ARGUMENT: usize = 200;

/// Its output is how long its arguments are.
#[derive(Serialize, Deserialize)]
pub(crate) struct Noop {
    pub(crate) data: String,
}

impl Task for Noop {
    const NAME: &'static str = "noop";
    type Output = usize;
}

impl Noop {
    /// Job number `job`: arguments that are not all the same.
    pub(crate) fn number(job: usize) -> Self {
        Self {
            data: format!("{job:0>ARGUMENT$}"),
        }
    }

    pub(crate) fn many(count: usize) -> Vec<Self> {
        (0..count).map(Self::number).collect()
    }
}

/// The same arguments for a raw loop.
pub(crate) fn bodies(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|job| Noop::number(job).data.into_bytes()).collect()
}
