//! Reads the day: a little at each look, and the rest in the background, block by block. What was
//! read stays, whatever becomes of the page that asked.

use std::sync::Arc;
use std::time::Duration;

use millhand_broker::Error;
use millhand_client::Client;
use millhand_proto::{Tally, Timestamp};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::day::{BLOCK, Day};

/// How long a page waits for a day that may be read in no time.
const MOMENT: Duration = Duration::from_millis(300);
/// When a block is read again: a worker may have been cut off for long.
const AGAIN: Duration = Duration::from_secs(3600);
/// Time between two blocks that are read again: all of a day within that hour.
const PACE: Duration = Duration::from_secs(30);
/// When a block is tried again that could not be read.
const RETRY: Duration = Duration::from_secs(2);

/// The day, and who reads it.
#[derive(Debug)]
pub(crate) struct History {
    client: Client,
    shared: Arc<Shared>,
    _reader: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    day: watch::Sender<Day>,
    /// Somebody looks.
    looked: Notify,
}

impl History {
    /// Reads nothing until somebody looks.
    pub(crate) fn new(client: Client) -> Self {
        let shared = Arc::new(Shared::default());
        let reader = tokio::spawn(Arc::clone(&shared).read(client.clone()));
        Self {
            client,
            shared,
            _reader: AbortOnDropHandle::new(reader),
        }
    }

    /// What is known of the day, up to this time.
    pub(crate) async fn look(&self, at: Timestamp) -> Result<Day, Error> {
        let open = self.shared.day.borrow().open(Tally::minute_of(at));
        let tallies = stats(&self.client, open.clone()).await?;
        self.shared.day.send_modify(|day| day.look(open, tallies));
        self.shared.looked.notify_one();
        let mut day = self.shared.day.subscribe();
        let whole = day.wait_for(|day| day.percent().is_none());
        // Then it is shown as far as it is known.
        drop(tokio::time::timeout(MOMENT, whole).await);
        Ok(day.borrow().clone())
    }
}

impl Shared {
    async fn read(self: Arc<Self>, client: Client) {
        self.looked.notified().await;
        let mut last = Instant::now();
        loop {
            let unknown = self.day.borrow().unknown();
            let again = || self.day.borrow().oldest(AGAIN).filter(|_| last.elapsed() >= PACE);
            let Some(block) = unknown.or_else(again) else {
                self.looked.notified().await;
                continue;
            };
            last = Instant::now();
            match stats(&client, block..block + BLOCK).await {
                Ok(tallies) => {
                    self.day.send_modify(|day| day.fill(block, tallies));
                    // The store does other things for as long.
                    tokio::time::sleep(last.elapsed()).await;
                }
                Err(error) => {
                    tracing::debug!(%error, block, "numbers could not be read; they are tried again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// The numbers of some minutes.
async fn stats(client: &Client, minutes: std::ops::Range<u64>) -> Result<Vec<Tally>, Error> {
    let start = |minute: u64| Timestamp::from_micros(i64::try_from(minute * 60_000_000).unwrap_or(i64::MAX));
    client
        .admin()
        .stats(start(minutes.start), start(minutes.end.saturating_sub(1)))
        .await
}
