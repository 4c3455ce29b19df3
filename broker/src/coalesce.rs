//! One coalescer before each door into a server.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::lock::lock;

type Work<Q, A> = dyn Fn(Vec<Q>) -> Pin<Box<dyn Future<Output = Vec<A>> + Send>> + Send + Sync;

/// Joins requests into batches: what arrives while one batch is under way forms the next. There
/// is no timer, so a lone request waits for nothing.
pub struct Coalescer<Q, A> {
    shared: Arc<Shared<Q, A>>,
}

struct Shared<Q, A> {
    most: usize,
    /// Where batches are worked; where the caller is, if that is not said.
    on: Option<Handle>,
    work: Box<Work<Q, A>>,
    state: Mutex<State<Q, A>>,
}

struct State<Q, A> {
    waiting: Vec<(Q, oneshot::Sender<A>)>,
    under_way: bool,
}

impl<Q: Send + 'static, A: Send + 'static> Coalescer<Q, A> {
    /// Batches of at most `most` requests go to `work`, one batch at a time; it answers each
    /// request in its place.
    pub fn new<F>(most: usize, work: impl Fn(Vec<Q>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Vec<A>> + Send + 'static,
    {
        Self::on(None, most, work)
    }

    /// Like [`Coalescer::new`], with batches worked on this runtime, whoever asks.
    pub(crate) fn on<F>(
        on: impl Into<Option<Handle>>,
        most: usize,
        work: impl Fn(Vec<Q>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Vec<A>> + Send + 'static,
    {
        let state = Mutex::new(State {
            waiting: Vec::new(),
            under_way: false,
        });
        Self {
            shared: Arc::new(Shared {
                most: most.max(1),
                on: on.into(),
                work: Box::new(move |batch| Box::pin(work(batch))),
                state,
            }),
        }
    }

    /// The answer to one request; `None` when the batch it was in panicked or was short of an
    /// answer.
    ///
    /// # Panics
    /// Outside a tokio runtime, when the batches have none of their own.
    pub async fn call(&self, request: Q) -> Option<A> {
        let (answer, answered) = oneshot::channel();
        let first = {
            let mut state = self.shared.state();
            state.waiting.push((request, answer));
            !std::mem::replace(&mut state.under_way, true)
        };
        if first {
            // Spawned, so that those who are ready to ask now still come along, and that nobody
            // who gives up waiting takes the others' batch with him.
            let shared = Arc::clone(&self.shared);
            let on = self.shared.on.clone().unwrap_or_else(Handle::current);
            on.spawn(Runner { shared, done: false }.run());
        }
        answered.await.ok()
    }
}

impl<Q, A> Shared<Q, A> {
    fn state(&self) -> MutexGuard<'_, State<Q, A>> {
        lock(&self.state)
    }

    /// The next batch; when there is none, the next request starts anew.
    fn next(&self) -> Option<(Vec<Q>, Vec<oneshot::Sender<A>>)> {
        let mut state = self.state();
        if state.waiting.is_empty() {
            state.under_way = false;
            return None;
        }
        let count = state.waiting.len().min(self.most);
        Some(state.waiting.drain(..count).unzip())
    }
}

/// Works batch after batch. When the work panics, or its runtime ends, those who wait learn it, and
/// the next request starts anew.
struct Runner<Q, A> {
    shared: Arc<Shared<Q, A>>,
    done: bool,
}

impl<Q, A> Runner<Q, A> {
    async fn run(mut self) {
        while let Some((requests, answers)) = self.shared.next() {
            for (answer, to) in (self.shared.work)(requests).await.into_iter().zip(answers) {
                // Who asked may be gone; what was done stays done.
                let _ = to.send(answer);
            }
        }
        self.done = true;
    }
}

impl<Q, A> Drop for Runner<Q, A> {
    fn drop(&mut self) {
        if !self.done {
            let mut state = self.shared.state();
            state.waiting.clear();
            state.under_way = false;
        }
    }
}

impl<Q, A> std::fmt::Debug for Coalescer<Q, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.shared.state();
        f.debug_struct("Coalescer")
            .field("waiting", &state.waiting.len())
            .field("under_way", &state.under_way)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime")
    }

    #[test]
    fn what_arrives_during_a_batch_forms_the_next_and_each_gets_its_own_answer() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let gate = Arc::new(Semaphore::new(0));
        let (seen, held) = (Arc::clone(&sizes), Arc::clone(&gate));
        let coalescer = Arc::new(Coalescer::new(4, move |batch: Vec<u32>| {
            seen.lock().expect("sizes").push(batch.len());
            let held = Arc::clone(&held);
            async move {
                held.acquire().await.expect("open").forget();
                batch.into_iter().map(|n| n * 2).collect()
            }
        }));
        runtime().block_on(async {
            let ask = |n: u32| {
                let coalescer = Arc::clone(&coalescer);
                tokio::spawn(async move { coalescer.call(n).await })
            };
            let mut asked = vec![ask(0)];
            while sizes.lock().expect("sizes").is_empty() {
                tokio::task::yield_now().await;
            }
            // The first is under way, alone: it waited for nobody.
            asked.extend((1..=6).map(ask));
            tokio::task::yield_now().await;
            gate.add_permits(3);
            let answers: Vec<u32> = join_all(asked)
                .await
                .into_iter()
                .map(|a| a.expect("joined").expect("answered"))
                .collect();
            assert_eq!(answers, [0, 2, 4, 6, 8, 10, 12]);
        });
        assert_eq!(*sizes.lock().expect("sizes"), [1, 4, 2]);
    }

    #[test]
    fn a_panic_in_a_batch_is_told_to_its_callers_and_the_next_goes_on() {
        let calls = AtomicUsize::new(0);
        let coalescer = Coalescer::new(8, move |batch: Vec<u32>| {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            async move {
                assert_ne!(call, 0, "the first batch panics");
                batch
            }
        });
        runtime().block_on(async {
            assert_eq!(coalescer.call(1).await, None);
            assert_eq!(coalescer.call(2).await, Some(2));
        });
    }

    #[test]
    fn an_answer_that_is_missing_is_no_hang() {
        let coalescer = Coalescer::new(8, |_: Vec<u32>| async { Vec::<u32>::new() });
        assert_eq!(runtime().block_on(coalescer.call(1)), None);
    }
}
