//! What the pages show, read for all who look at the same moment: a hundred open pages cost one
//! reading.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use millhand_broker::{Counts, Error, JobFilter, JobView, QueueView, WorkerView};
use millhand_client::Client;
use millhand_proto::{JobId, State, Timestamp};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::day::Day;
use crate::history::History;
use crate::job::Beside;
use crate::overview::Parts;
use crate::range::Range;

/// How long a page waits for the back end.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pages that are asked for within this time show the same moment.
const FRESH: Duration = Duration::from_secs(1);
/// How often the list of dead jobs is read: it costs more than numbers do.
const DEAD_EVERY: Duration = Duration::from_secs(10);
/// Dead jobs that are shown.
const DEAD: usize = 10;
/// One moment, as all pages show it.
#[derive(Debug)]
pub(crate) struct Moment {
    pub(crate) at: Timestamp,
    pub(crate) place: String,
    pub(crate) queues: Vec<QueueView>,
    /// What is counted in queues.
    pub(crate) counts: Counts,
    pub(crate) workers: Vec<WorkerView>,
    pub(crate) dead: Arc<[JobView]>,
    /// The numbers of the last day, as far as they are read.
    pub(crate) day: Day,
    /// Its overview, range by range, made when first asked for.
    parts: [OnceLock<Arc<Parts>>; Range::ALL.len()],
}

impl Moment {
    /// A moment at which nothing is there.
    #[cfg(test)]
    pub(crate) fn empty(at: Timestamp) -> Self {
        Self {
            at,
            place: String::new(),
            queues: Vec::new(),
            counts: Counts::Jobs,
            workers: Vec::new(),
            dead: Arc::default(),
            day: Day::of(millhand_proto::Tally::minute_of(at), Vec::new()),
            parts: Default::default(),
        }
    }

    /// The overview of this moment.
    pub(crate) fn parts(&self, range: Range) -> Arc<Parts> {
        Arc::clone(self.parts[range as usize].get_or_init(|| Arc::new(Parts::of(self, range))))
    }
}

/// Why nothing can be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    /// The back end failed; its error names no secret.
    #[error("{0}")]
    Failed(String),
    /// It did not answer.
    #[error("{place} did not answer within {} s", PATIENCE.as_secs(), place = .0)]
    Silent(String),
}

/// Reads the back end.
#[derive(Debug)]
pub(crate) struct Figures {
    client: Client,
    history: History,
    kept: Mutex<Kept>,
}

/// What was read before.
#[derive(Debug, Default)]
struct Kept {
    moment: Option<(Instant, Arc<Moment>)>,
    dead: Option<(Instant, Arc<[JobView]>)>,
}

impl Figures {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            history: History::new(client.clone()),
            client,
            kept: Mutex::default(),
        }
    }

    /// This moment, or one a second ago.
    pub(crate) async fn moment(&self) -> Result<Arc<Moment>, Trouble> {
        self.within(async {
            let mut kept = self.kept.lock().await;
            if let Some((_, moment)) = kept.moment.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
                return Ok(Arc::clone(moment));
            }
            let moment = Arc::new(self.read(&mut kept).await?);
            kept.moment = Some((Instant::now(), Arc::clone(&moment)));
            Ok(moment)
        })
        .await
    }

    /// All that is known of one job, and the time.
    pub(crate) async fn job(&self, id: JobId) -> Result<(Option<(JobView, Beside)>, Timestamp), Trouble> {
        let read = async {
            let Some(view) = self.client.get(id).await? else {
                return Ok(None);
            };
            let (log, progress) = tokio::try_join!(self.client.log(id), self.client.progress(&view))?;
            Ok(Some((view, Beside { log, progress })))
        };
        let job = self.within(read).await?;
        Ok((job, self.client.backend().now()))
    }

    pub(crate) fn place(&self) -> String {
        self.client.backend().facts().place
    }

    async fn within<T>(&self, read: impl Future<Output = Result<T, Error>>) -> Result<T, Trouble> {
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Trouble::Failed(error.to_string())),
            Err(_) => Err(Trouble::Silent(self.place())),
        }
    }

    async fn read(&self, kept: &mut Kept) -> Result<Moment, Error> {
        let admin = self.client.admin();
        let at = self.client.backend().now();
        let dead = async {
            match &kept.dead {
                Some((at, dead)) if at.elapsed() < DEAD_EVERY => Ok((*at, Arc::clone(dead))),
                _ => {
                    let filter = JobFilter {
                        states: vec![State::Dead],
                        limit: DEAD,
                        ..JobFilter::default()
                    };
                    let page = admin.list(filter).await?;
                    Ok::<_, Error>((Instant::now(), page.jobs.into()))
                }
            }
        };
        let (queues, workers, day, dead) =
            tokio::try_join!(admin.queues(), admin.workers(), self.history.look(at), dead)?;
        kept.dead = Some(dead.clone());
        let facts = self.client.backend().facts();
        Ok(Moment {
            at,
            place: facts.place,
            counts: facts.counts,
            queues,
            workers,
            dead: dead.1,
            day,
            parts: Default::default(),
        })
    }
}
