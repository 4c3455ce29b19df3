//! What a developer writes: a task.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A task: an argument type with a name, an output type and a default queue.
///
/// Producers need only this, never the handler.
///
/// ```
/// use millhand_proto::Task;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// pub struct Resize { pub image: u64, pub width: u32 }
///
/// impl Task for Resize {
///     const NAME: &'static str = "resize";
///     type Output = String;
/// }
/// ```
pub trait Task: Serialize + DeserializeOwned + Send + 'static {
    /// The name on the wire, `[a-z0-9][a-z0-9_.-]{0,63}`: renaming it is a migration.
    const NAME: &'static str;
    /// The queue that its jobs go to unless a job says otherwise.
    const QUEUE: &'static str = "default";
    /// What a successful job answers.
    type Output: Serialize + DeserializeOwned + Send + 'static;
}
