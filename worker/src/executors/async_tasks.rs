//! The async executor: a job is a future on the tasks' runtime.

use std::time::Duration;

use millhand_proto::Outcome;
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};

use super::{Ended, GRACE, Run};
use crate::context::Context;
use crate::failure::panic_text;
use crate::registry::{AsyncHandler, Handled};

pub(super) async fn run(tasks: &Handle, handler: &AsyncHandler, run: &Run, cx: Context) -> Ended {
    let (handler, args, inner) = (handler.clone(), run.args.clone(), cx.clone());
    // Making the future is the handler's code too: its panic must be caught as well.
    let mut task = Task(tasks.spawn(async move { handler(args, inner).await }));
    let stopped = tokio::select! {
        joined = &mut task.0 => return ended(joined, &cx),
        limit = run.timed_out() => Outcome::TimedOut(limit),
        () = run.stop.asked.cancelled() => run.stop.outcome(),
    };
    task.0.abort();
    // Nothing may run on after the outcome: a future that does not reach an await keeps its slot.
    // Only a worker that stops at once does not wait for it.
    let given_up = async {
        run.stop.at_once.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        joined = &mut task.0 => match joined {
            // It ended by itself before the abort reached it.
            Ok(handled) => Ended::of(handled, None, &cx),
            Err(_) => Ended::only(stopped),
        },
        () = given_up => Ended::only(stopped),
    }
}

fn ended(joined: Result<Handled, JoinError>, cx: &Context) -> Ended {
    match joined.map_err(JoinError::try_into_panic) {
        Ok(handled) => Ended::of(handled, None, cx),
        Err(Ok(panic)) => Ended::failed(panic_text(&*panic)),
        // Nobody else aborts it: its runtime is shut down.
        Err(Err(_)) => Ended {
            run: Some(Duration::ZERO),
            ..Ended::only(Outcome::Interrupted)
        },
    }
}

/// A task that ends with its run.
struct Task(JoinHandle<Handled>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
