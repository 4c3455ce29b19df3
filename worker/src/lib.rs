//! The worker: it takes jobs from queues and runs each on the executor that its registration
//! chose: async on tokio, a thread, or a child process.
//!
//! [`Worker`] is all that a program needs. Inside, `dispatch` is the loop, `attempt` one attempt as
//! one function, `executors` where jobs run.

mod attempt;
mod bare;
mod child;
pub mod child_check;
mod context;
mod crew;
mod dispatch;
mod executors;
mod failure;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
mod health;
mod log;
mod panics;
mod registry;
mod room;
mod stop;
mod tally;
mod worker;

#[doc(hidden)]
pub use bare::Bare;
pub use context::{Context, EnqueueError, MissingState};
pub use executors::Recycle;
pub use failure::{Failure, snooze};
pub use health::Health;
pub use registry::{Blocking, CommandKind, CommandTask, ConfigError, Executor, TaskOptions};
pub use worker::{Slots, Worker, WorkerError, shutdown_signal};
