//! What open pages are told: one reader for all of them, which stops when nobody listens.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::figures::{Figures, Moment, Trouble};
use crate::range::Range;
use crate::say;

/// How often pages are told.
const TICK: Duration = Duration::from_secs(2);
/// Pages that may listen at once.
pub(crate) const LISTENERS: usize = 64;

type Told = Option<Result<Arc<Moment>, Trouble>>;

/// Those who listen, and the one who reads for them.
#[derive(Debug)]
pub(crate) struct Live {
    figures: Arc<Figures>,
    latest: watch::Sender<Told>,
    /// Whether the reader runs.
    reads: Mutex<bool>,
    places: Arc<Semaphore>,
    ended: CancellationToken,
}

impl Live {
    pub(crate) fn new(figures: Arc<Figures>, ended: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            figures,
            latest: watch::Sender::new(None),
            reads: Mutex::new(false),
            places: Arc::new(Semaphore::new(LISTENERS)),
            ended,
        })
    }

    /// A stream of what changes; `None` when too many listen.
    pub(crate) fn listen(self: &Arc<Self>, range: Range) -> Option<Response> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let listener = Listener {
            told: self.join(),
            range,
            sent: HashMap::new(),
            due: VecDeque::new(),
            ended: self.ended.clone(),
            _place: place,
        };
        let events = stream::unfold(listener, |mut listener| async {
            let event = listener.next().await?;
            Some((Ok::<_, Infallible>(event), listener))
        });
        Some(Sse::new(events).into_response())
    }

    /// Listens, and starts the reader when it is the first to do so.
    fn join(self: &Arc<Self>) -> watch::Receiver<Told> {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = self.latest.subscribe();
        // Who comes later sees at once what the others saw last.
        told.mark_changed();
        if !std::mem::replace(&mut *reads, true) {
            // What was told to others is old.
            self.latest.send_replace(None);
            tokio::spawn(Arc::clone(self).read());
        }
        told
    }

    async fn read(self: Arc<Self>) {
        while !self.leaves() {
            let moment = self.figures.moment().await;
            if let Err(trouble) = &moment {
                tracing::debug!(%trouble, "open pages are told of it");
            }
            self.latest.send_replace(Some(moment));
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = self.ended.cancelled() => return,
            }
        }
    }

    /// Whether nobody listens any more; who comes next starts another reader.
    fn leaves(&self) -> bool {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        *reads = self.latest.receiver_count() > 0;
        !*reads
    }
}

/// One open page.
struct Listener {
    told: watch::Receiver<Told>,
    range: Range,
    /// What the page shows, as hashes of its parts.
    sent: HashMap<&'static str, u64>,
    due: VecDeque<Event>,
    ended: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.due.pop_front() {
                return Some(event);
            }
            tokio::select! {
                changed = self.told.changed() => changed.ok()?,
                () = self.ended.cancelled() => return None,
            }
            let told = self.told.borrow_and_update().clone();
            match told {
                Some(Ok(moment)) => self.show(&moment),
                Some(Err(trouble)) => self
                    .due
                    .push_back(Event::default().event("trouble").data(trouble.to_string())),
                None => {}
            }
        }
    }

    /// The parts that are not as the page shows them, then the time.
    fn show(&mut self, moment: &Moment) {
        let parts = moment.parts(self.range);
        for (id, html) in parts.iter() {
            let mut hasher = DefaultHasher::new();
            html.as_str().hash(&mut hasher);
            let hash = hasher.finish();
            if self.sent.insert(id, hash) != Some(hash) {
                // The element's id stands on the first line.
                self.due
                    .push_back(Event::default().event("part").data(format!("{id}\n{}", html.as_str())));
            }
        }
        let tick = format!("{} {}", say::clock(moment.at), parts.problems);
        self.due.push_back(Event::default().event("tick").data(tick));
    }
}

#[cfg(test)]
mod tests {
    use millhand_broker::memory::Memory;
    use millhand_client::Client;

    use super::*;

    async fn moment(told: &mut watch::Receiver<Told>) -> Arc<Moment> {
        loop {
            told.changed().await.unwrap();
            if let Some(Ok(moment)) = &*told.borrow_and_update() {
                return Arc::clone(moment);
            }
        }
    }

    #[tokio::test]
    async fn all_who_listen_share_one_reader_that_stops_with_the_last() {
        let client = Client::new(Memory::open().unwrap());
        let live = Live::new(Arc::new(Figures::new(client)), CancellationToken::new());
        let (mut one, mut other) = (live.join(), live.join());
        let (a, b) = (moment(&mut one).await, moment(&mut other).await);
        assert!(Arc::ptr_eq(&a, &b));
        assert!(Arc::ptr_eq(&a.parts(Range::Hour), &b.parts(Range::Hour)), "drawn once");
        drop((one, other));
        let stopped = async {
            while *live.reads.lock().unwrap() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(TICK * 5, stopped).await.unwrap();
        // The next is told of a new moment, not of the last one.
        let mut next = live.join();
        assert!(!Arc::ptr_eq(&a, &moment(&mut next).await));
    }
}
