//! How a worker stops.

use std::sync::Arc;
use std::time::Duration;

use millhand_broker::Release;
use tokio::time::{Instant, sleep, timeout};

use super::{Dispatch, Ears};
use crate::crew::Event;

/// How long what is left may take each: interrupted jobs and unclaimed ones to go back, the last
/// statistics, the farewell. A worker that is told to stop stops, even if the back end takes nothing
/// more: its deliveries come again.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl Dispatch {
    /// Takes no more; running jobs finish within the grace; the rest goes back.
    pub(super) async fn stop(mut self, mut ears: Ears, grace: Duration) {
        self.taps.clear();
        self.say_health();
        let unclaimed = self.room.take(|_| true);
        self.hand_back(unclaimed, Release::Now);
        self.crew.stopping.cancel();
        if self.under_way > 0 {
            tracing::info!(
                jobs = self.under_way,
                ?grace,
                "stops when these have ended; a second signal gives them back at once"
            );
        }
        self.end_jobs(&mut ears, grace).await;
        // What follows may take its time, and is no standstill.
        self.say_health();
        if self.under_way + self.going_back > 0 {
            tracing::warn!(
                jobs = self.under_way,
                going_back = self.going_back,
                "stops although these have not ended or gone back; they come again"
            );
        }
        self.duties.end().await;
        let flushed = self.crew.tallies.flush(&*self.crew.backend);
        if timeout(LAST_WORDS, flushed).await.is_err() {
            tracing::debug!("the last statistics could not be written");
        }
        self.say_health();
        let left = timeout(LAST_WORDS, self.crew.backend.leave(self.crew.me)).await;
        let error = match left {
            Ok(left) => left.err().map(|error| error.to_string()),
            Err(_) => Some("it took too long".to_owned()),
        };
        if let Some(error) = error {
            tracing::warn!(error, "could not say that this worker is gone; others will notice");
        }
        if let Some(crew) = Arc::into_inner(self.crew) {
            crew.executors.stop().await;
        }
        tracing::info!("stopped");
    }

    /// Waits for jobs that are under way, in the end with a word to them; for those that only go back
    /// no longer than such a word may take.
    async fn end_jobs(&mut self, ears: &mut Ears, grace: Duration) {
        let mut deadline = std::pin::pin!(sleep(grace));
        let mut enough = std::pin::pin!(sleep(LAST_WORDS));
        let mut second = std::pin::pin!(crate::worker::shutdown_signal());
        let (mut hurried, mut told) = (false, false);
        while self.under_way > 0 || (self.going_back > 0 && !enough.is_elapsed()) {
            tokio::select! {
                Some(event) = ears.inbox.recv() => match event {
                    Event::Over => self.under_way -= 1,
                    Event::Back => self.going_back -= 1,
                    Event::Beaten(_) => self.beaten = Some(std::time::Instant::now()),
                    // Its consumer was told to end; what still came goes back with the farewell.
                    _ => {}
                },
                // A cancel reaches running jobs also now.
                Some(mail) = ears.mails.recv() => self.read_mail(mail),
                // They are this worker's for as long as its lease lasts.
                _ = ears.beats.tick() => self.beat(),
                _ = ears.probes.tick(), if self.runs_async() => self.look(),
                Ok(()) = ears.leaks.changed() => self.leaks(*ears.leaks.borrow_and_update()),
                () = &mut enough, if !enough.is_elapsed() => {}
                () = &mut second, if !(hurried || told) => {
                    hurried = true;
                    deadline.as_mut().reset(Instant::now());
                }
                () = &mut deadline => {
                    if told {
                        return;
                    }
                    told = true;
                    self.crew.interrupt();
                    deadline.as_mut().reset(Instant::now() + LAST_WORDS);
                }
            }
        }
    }
}
