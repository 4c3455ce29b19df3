//! Settling: remember (store), release (queue, confirmed), acknowledge. The one place that knows
//! this order.

use std::collections::HashMap;
use std::time::Duration;

use millhand_proto::protocol::{End, Written, detach};
use millhand_proto::sabotage::{Bug, planted};
use millhand_proto::{AttemptNote, JobCopy, Leaving, Parcel, Successor, Timestamp, limits};

use super::Pair;
use super::changes::{Change, Reply, beside};
use super::queue::{Outgoing, Route, Side};
use super::store::Key;
use crate::backend::{DeliveryId, Pushed, Release, Settled, Settlement, Verdict};
use crate::crash;
use crate::error::{Error, Result};

/// A copy that goes back into the queue.
struct Back {
    /// The settlement it comes from.
    at: usize,
    copy: JobCopy,
    route: Route,
    /// Copies of one delivery and one route travel in one parcel.
    with: Option<DeliveryId>,
}

/// Copies that go back in one message.
struct Together {
    route: Route,
    with: Option<DeliveryId>,
    places: Vec<usize>,
    copies: Vec<JobCopy>,
}

impl Pair {
    /// Settles; what cannot be settled now is settled again, and nothing of it counts twice. Where the
    /// store does not answer, that is all of it.
    pub(super) async fn settle_all(&self, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        crash::point("settle.before");
        let mut settled = vec![Settled::Done; settlements.len()];
        self.publish_children(settlements, &mut settled).await?;
        crash::point("settle.after_children");

        // Remember.
        let now = self.store.now();
        let (places, changes): (Vec<usize>, Vec<Change>) = settlements
            .iter()
            .enumerate()
            .filter(|(at, _)| settled[*at] == Settled::Done)
            .filter_map(|(at, settlement)| Some((at, first_change(settlement)?)))
            .unzip();
        let mut written: HashMap<usize, Written> = HashMap::new();
        for (at, reply) in places.into_iter().zip(self.records.change(changes).await) {
            if let Reply::Written(said) = reply? {
                written.insert(at, said);
            }
        }
        for (at, settlement) in settlements.iter().enumerate() {
            let ended = matches!(written.get(&at), Some(Written::Applied | Written::Already));
            if written.get(&at) == Some(&Written::Stale) {
                settled[at] = Settled::Stale;
            }
            if ended || settled[at] == Settled::Stale {
                self.ledger.ran(settlement.copy.id());
            }
        }

        if planted(Bug::MarkedEarly) {
            self.write_confirms(settlements, &HashMap::new(), &mut settled).await?;
        }
        if planted(Bug::AckBeforeConfirm) {
            self.acknowledge(settlements, &settled);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        crash::point("settle.after_remember");
        self.name_tasks(settlements, now).await;

        // Release.
        let back = settlements
            .iter()
            .enumerate()
            .filter(|(at, _)| settled[*at] == Settled::Done)
            .filter_map(|(at, settlement)| self.back(at, settlement, now))
            .collect();
        let bodies = self.release(back, &mut settled).await?;

        crash::point("settle.after_release");

        self.write_confirms(settlements, &bodies, &mut settled).await?;
        crash::point("settle.after_confirm");
        // That it is detached is told, not needed: the watch copy looks after the job.
        let detached = settlements.iter().filter(|s| matches!(s.verdict, Verdict::Detach));
        let told = detached.map(|s| Change::Detach { copy: s.copy.clone() }).collect();
        for error in self.records.change(told).await.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "a detached job could not be marked");
        }

        self.acknowledge(settlements, &settled);
        crash::point("settle.after");
        Ok(settled)
    }

    /// Writes that what follows is in the queue.
    async fn write_confirms(
        &self,
        settlements: &[Settlement],
        bodies: &HashMap<usize, bytes::Bytes>,
        settled: &mut [Settled],
    ) -> Result<()> {
        let (places, changes): (Vec<usize>, Vec<Change>) = settlements
            .iter()
            .enumerate()
            .filter(|(at, _)| settled[*at] == Settled::Done)
            .filter_map(|(at, settlement)| {
                let published = successor(&settlement.verdict)?;
                let body = (published.why == Leaving::Death)
                    .then(|| bodies.get(&at).cloned())
                    .flatten();
                let copy = settlement.copy.clone();
                Some((at, Change::Confirm { copy, published, body }))
            })
            .unzip();
        for (at, reply) in places.into_iter().zip(self.records.change(changes).await) {
            if reply? == Reply::Confirmed(false) {
                settled[at] = Settled::Stale;
            }
        }
        Ok(())
    }

    /// Acknowledges what is done. Who is stale meets its copy again.
    fn acknowledge(&self, settlements: &[Settlement], settled: &[Settled]) {
        let done = settlements.iter().zip(settled).filter(|(_, s)| **s == Settled::Done);
        let ended = self.ledger.settled(done.map(|(s, _)| (s.delivery, s.copy.id())));
        if !ended.is_empty() {
            self.queue.acknowledge(ended);
        }
    }

    /// The lists of jobs that succeeded are found by the names of their tasks.
    async fn name_tasks(&self, settlements: &[Settlement], now: Timestamp) {
        let succeeded = settlements
            .iter()
            .filter(|s| matches!(s.verdict, Verdict::Succeed { .. }));
        let names: Vec<_> = succeeded
            .filter_map(|s| self.registry.note(Key::Tasks, s.copy.core.task.as_str(), now))
            .collect();
        if !names.is_empty()
            && let Err(error) = self.effects(names).await
        {
            tracing::debug!(%error, "the names of tasks could not be noted");
        }
    }

    /// Children are durable before their parent's end is written; a parent that ended already has
    /// them.
    async fn publish_children(&self, settlements: &[Settlement], settled: &mut [Settled]) -> Result<()> {
        let (mut parents, mut parcels) = (Vec::new(), Vec::new());
        for (at, settlement) in settlements.iter().enumerate() {
            let Verdict::Succeed { fence, children, .. } = &settlement.verdict else {
                continue;
            };
            if children.is_empty() {
                continue;
            }
            let entry = self.entry(&settlement.copy).await?;
            if !entry.is_some_and(|e| e.state.is_ended() && e.fence() == *fence) {
                parents.extend(children.iter().map(|_| at));
                parcels.extend(children.iter().cloned());
            }
        }
        if parcels.is_empty() {
            return Ok(());
        }
        for (at, pushed) in parents.into_iter().zip(self.push_all(parcels, true).await) {
            self.note_unpublished(&pushed, &[at], settled);
        }
        Ok(())
    }

    /// What was not published is settled again.
    fn note_unpublished(&self, pushed: &Pushed, places: &[usize], settled: &mut [Settled]) {
        if let Pushed::Rejected(why) | Pushed::Unknown(why) = pushed {
            tracing::warn!(
                queue = self.queue.place(),
                why,
                jobs = places.len(),
                "not published; tried again"
            );
            for at in places {
                settled[*at] = Settled::Again;
            }
        }
    }

    /// What goes back into the queue for this settlement.
    fn back(&self, at: usize, settlement: &Settlement, now: Timestamp) -> Option<Back> {
        let copy = &settlement.copy;
        let (copy, route, with) = match &settlement.verdict {
            Verdict::Release(release) => {
                // A delivery that was lost is in the queue already.
                if !self.ledger.holds(settlement.delivery, copy.id()) {
                    return None;
                }
                let route = match *release {
                    Release::Now | Release::Alone => Route::back(copy, Duration::ZERO),
                    Release::Busy(until) => Route::ahead(copy, until.since(now)),
                    Release::Parked(until) => Route::to(copy, until.since(now), true),
                    Release::NotDue(due) => Route::back(copy, due.since(now)),
                };
                let with = (*release != Release::Alone).then_some(settlement.delivery);
                (release.of(copy, now), route, with)
            }
            Verdict::Leave { successor, note, .. } => {
                let error = note.as_ref().and_then(|n: &AttemptNote| n.error.as_ref());
                let next = successor.copy(copy, error.map(|e| e.as_str()));
                (next, self.successor_route(copy, *successor, now), None)
            }
            Verdict::Replay(successor) => {
                let next = successor.copy(copy, None);
                (next, self.successor_route(copy, *successor, now), None)
            }
            Verdict::GiveBack { .. } => (copy.clone(), Route::back(copy, Duration::ZERO), None),
            Verdict::Detach => {
                let (mut watch, _) = detach(None, copy, limits::LEASE, now);
                // It looks after a run from the first on.
                watch.hop.busy = watch.hop.busy.max(1);
                let wait = limits::LEASE + Duration::from_secs(1);
                (watch, Route::ahead(copy, wait), None)
            }
            Verdict::Acknowledge | Verdict::Succeed { .. } | Verdict::Cancel { .. } => return None,
        };
        Some(Back { at, copy, route, with })
    }

    fn successor_route(&self, copy: &JobCopy, successor: Successor, now: Timestamp) -> Route {
        match successor.why {
            Leaving::Death => Route::Side(Side::Dead, None),
            Leaving::Retry => Route::to(copy, successor.due.since(now), true),
            Leaving::Snooze => Route::to(copy, successor.due.since(now), false),
        }
    }

    /// Publishes copies, one message for those that may travel together; answers the bytes of each.
    async fn release(&self, back: Vec<Back>, settled: &mut [Settled]) -> Result<HashMap<usize, bytes::Bytes>> {
        let mut together: Vec<Together> = Vec::new();
        for Back { at, copy, route, with } in back {
            let mate = together
                .iter_mut()
                .find(|other| with.is_some() && other.with == with && other.route == route);
            match mate {
                Some(mate) => {
                    mate.places.push(at);
                    mate.copies.push(copy);
                }
                None => together.push(Together {
                    route,
                    with,
                    places: vec![at],
                    copies: vec![copy],
                }),
            }
        }
        if together.is_empty() {
            return Ok(HashMap::new());
        }
        let (mut bodies, mut places, mut messages) = (HashMap::new(), Vec::new(), Vec::new());
        for message in together {
            // Copies of one delivery have one header and one record, so they go together.
            let parcel = Parcel::several(message.copies).map_err(|e| Error::unreachable("a parcel", e))?;
            let body: bytes::Bytes = parcel.encode().into();
            bodies.extend(message.places.iter().map(|at| (*at, body.clone())));
            places.push(message.places);
            let to = message.route;
            messages.push(Outgoing::new(to, body).or_later());
        }
        let published = if planted(Bug::ReleaseWithoutConfirm) {
            let (queue, accepted) = (self.queue.clone(), vec![Pushed::Accepted; messages.len()]);
            tokio::spawn(async move { queue.publish(messages).await });
            accepted
        } else {
            self.queue.publish(messages).await
        };
        for (places, pushed) in places.iter().zip(published) {
            self.note_unpublished(&pushed, places, settled);
        }
        Ok(bodies)
    }
}

/// What is remembered before anything is published.
fn first_change(settlement: &Settlement) -> Option<Change> {
    let (copy, log) = (settlement.copy.clone(), settlement.log.clone());
    Some(match settlement.verdict.clone() {
        Verdict::Succeed {
            fence, result, receipt, ..
        } => {
            let inline = result.is_inline();
            let big = (!inline).then(|| beside(&result));
            let end = End::Succeeded(inline.then_some(result));
            Change::End {
                copy,
                fence,
                end,
                big,
                receipt,
                log,
            }
        }
        Verdict::Cancel { fence, note, receipt } => Change::End {
            copy,
            fence,
            end: End::Cancelled(note),
            big: None,
            receipt,
            log,
        },
        Verdict::Leave {
            fence,
            successor,
            reason,
            note,
            receipt,
        } => Change::Leave {
            copy,
            fence,
            successor,
            reason,
            note,
            receipt,
            log,
        },
        Verdict::GiveBack { fence, worker } => Change::GiveBack { copy, fence, worker },
        Verdict::Acknowledge | Verdict::Release(_) | Verdict::Replay(_) | Verdict::Detach => return None,
    })
}

fn successor(verdict: &Verdict) -> Option<Successor> {
    match verdict {
        Verdict::Leave { successor, .. } | Verdict::Replay(successor) => Some(*successor),
        _ => None,
    }
}
