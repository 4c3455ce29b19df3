//! What operators and waiting clients do with single jobs.

use bytes::Bytes;
use millhand_proto::protocol::retry;
use millhand_proto::{JobId, Parcel, State};

use super::Pair;
use super::changes::{Change, Reply};
use super::queue::{Outgoing, Route};
use super::store::{Found, Key, Read};
use super::views::copy_in;
use crate::backend::{Act, Acted, Pushed};
use crate::error::{Error, Result};

impl Pair {
    pub(super) async fn act_all(&self, acts: Vec<Act>) -> Result<Vec<Acted>> {
        let mut acted: Vec<Option<Acted>> = vec![None; acts.len()];
        let mut changes = Vec::new();
        let mut places = Vec::new();
        let mut published = Vec::new();
        for (at, act) in acts.into_iter().enumerate() {
            let change = match act {
                Act::Cancel(id) => Change::Cancel { id },
                Act::Drop(id) => Change::Drop { id },
                Act::Listen(id, mailbox) => Change::Listen { id, mailbox },
                Act::Retry(_) | Act::RunNow(_) => {
                    published.push(async move { Ok((at, self.send_again(act).await?)) });
                    continue;
                }
            };
            places.push(at);
            changes.push(change);
        }
        // Side by side: what they publish and write is joined before the servers' doors.
        let published: Vec<Result<_>> = futures_util::future::join_all(published).await;
        for sent in published {
            let (at, said) = sent?;
            acted[at] = Some(said);
        }
        for (at, reply) in places.into_iter().zip(self.records.change(changes).await) {
            if let Reply::Acted(said) = reply? {
                acted[at] = Some(said);
            }
        }
        Ok(acted.into_iter().map(|a| a.unwrap_or(Acted::Unknown)).collect())
    }

    async fn send_again(&self, act: Act) -> Result<Acted> {
        match act {
            Act::Retry(id) => self.retry(id).await,
            Act::RunNow(id) => self.run_now(id).await,
            Act::Cancel(_) | Act::Drop(_) | Act::Listen(..) => Ok(Acted::Unknown),
        }
    }

    /// Publishes the next hand of a dead job, then writes it. A crash in between leaves a copy that
    /// is adopted when it is met.
    async fn retry(&self, id: JobId) -> Result<Acted> {
        let Some(view) = self.views(&[id]).await?.pop().flatten() else {
            return Ok(Acted::Unknown);
        };
        let Some(copy) = self.kept(Key::Dead(id), id).await? else {
            return Ok(Acted::Refused(if view.entry.state == State::Dead {
                "its arguments are no longer kept".into()
            } else {
                format!("it is {}; only dead jobs can be retried", view.entry.state)
            }));
        };
        let next = match retry(&view.entry, &copy, self.store.now()) {
            Err(refused) => return Ok(Acted::Refused(refused.to_string())),
            Ok((next, ..)) => next,
        };
        let to = Route::Work(next.core.queue.clone(), next.core.class);
        self.publish_one(to, Parcel::of(next).encode().into()).await?;
        let hand = view.entry.hand;
        match self.records.one(Change::Retried { id, copy, hand }).await? {
            Reply::Acted(acted) => Ok(acted),
            _ => Ok(Acted::Done),
        }
    }

    /// Publishes a copy of the same hand that is due now; whichever comes first runs.
    async fn run_now(&self, id: JobId) -> Result<Acted> {
        let Some(view) = self.views(&[id]).await?.pop().flatten() else {
            return Ok(Acted::Unknown);
        };
        if view.entry.state != State::Scheduled {
            let state = view.entry.state;
            return Ok(Acted::Refused(format!(
                "it is {state}; only scheduled jobs can be run now"
            )));
        }
        let kept = self.kept(Key::Delayed(id.parcel_key()), id).await?;
        let Some(mut copy) = kept.filter(|copy| copy.hop.hand == view.entry.hand) else {
            return Ok(Acted::Refused(
                "its arguments are kept only where it waits; it runs when it is due".into(),
            ));
        };
        copy.hop.due = Some(self.store.now());
        let to = Route::Work(copy.core.queue.clone(), copy.core.class);
        self.publish_one(to, Parcel::of(copy).encode().into()).await?;
        Ok(Acted::Done)
    }

    async fn kept(&self, key: Key, id: JobId) -> Result<Option<millhand_proto::JobCopy>> {
        let found = self.store.read(vec![Read::Get(key)]).await?.pop();
        Ok(found.and_then(Found::bytes).and_then(|bytes| copy_in(&bytes, id)))
    }

    pub(super) async fn publish_one(&self, to: Route, body: Bytes) -> Result<()> {
        match self.queue.publish(vec![Outgoing::new(to, body)]).await.pop() {
            Some(Pushed::Accepted) => Ok(()),
            Some(Pushed::Rejected(why) | Pushed::Unknown(why)) => Err(Error::unreachable(&self.queue.place(), why)),
            None => Err(Error::Closed),
        }
    }
}
