//! What people do to a job.

use millhand_proto::protocol::{Cancel, cancel, retry};
use millhand_proto::{JobId, Parcel, RecordKey, State};

use super::{Engine, Found};
use crate::backend::{Act, Acted};
use crate::local::tables::Sql;

impl Engine<'_> {
    pub(in crate::local) fn act(&mut self, act: &Act) -> Sql<Acted> {
        match act {
            Act::Cancel(id) => self.cancel(*id, "cancelled"),
            Act::Retry(id) => self.retry(*id),
            Act::RunNow(id) => self.run_now(*id),
            Act::Drop(id) => self.forget(*id),
            Act::Listen(id, mailbox) => {
                let Some(mut found) = self.find(*id)? else {
                    return Ok(Acted::Unknown);
                };
                if found.entry.listen(*mailbox) {
                    self.put_found(*id, found)?;
                }
                Ok(Acted::Done)
            }
        }
    }

    fn cancel(&mut self, id: JobId, reason: &str) -> Sql<Acted> {
        let Some(found) = self.find(id)? else {
            return Ok(Acted::Unknown);
        };
        let (answer, entry) = cancel(found.entry.clone(), reason, self.now);
        if let Some(entry) = entry {
            self.put_found(id, Found { entry, ..found })?;
        }
        match answer {
            Cancel::Ended(State::Cancelled) => Ok(Acted::Done),
            Cancel::Ended(state) => Ok(Acted::Refused(format!("it is {state} already"))),
            Cancel::Asked(owner) => {
                self.effects.cancels.push((id, owner));
                Ok(Acted::Asked)
            }
            Cancel::Cancelled => {
                // Its copy would be dropped when it is met; a far one may outlive the record.
                for (row, _) in self.copies(id)? {
                    if !row.held
                        && Parcel::decode(&row.body)
                            .is_ok_and(|o| o.bad.is_empty() && o.parcel.is_some_and(|p| p.jobs().len() == 1))
                    {
                        self.tables.delete(row.seq)?;
                    }
                }
                Ok(Acted::Done)
            }
        }
    }

    fn retry(&mut self, id: JobId) -> Sql<Acted> {
        let Some(found) = self.find(id)? else {
            return Ok(Acted::Unknown);
        };
        let Some(copy) = self.kept_copy(id)? else {
            return Ok(Acted::Refused(if found.entry.state == State::Dead {
                "its arguments are no longer kept".into()
            } else {
                format!("it is {}; only dead jobs can be retried", found.entry.state)
            }));
        };
        match retry(&found.entry, &copy, self.now) {
            Err(refused) => Ok(Acted::Refused(refused.to_string())),
            Ok((next, entry, own)) => {
                self.publish(next)?;
                let (queue, class) = (found.queue.clone(), found.class);
                self.put_found(id, Found { entry, ..found })?;
                if let Some(own) = own {
                    self.put((RecordKey::Own(id), queue, class), id, own)?;
                }
                self.tables.delete_values(id)?;
                Ok(Acted::Done)
            }
        }
    }

    /// Publishes a copy of the same hand that is due now: whichever comes first runs, the other is
    /// dropped.
    fn run_now(&mut self, id: JobId) -> Sql<Acted> {
        let Some(view) = self.view(id)? else {
            return Ok(Acted::Unknown);
        };
        let waiting = self
            .copies(id)?
            .into_iter()
            .map(|(_, copy)| copy)
            .max_by_key(|copy| copy.hop.hand);
        match (view.entry.state, waiting) {
            (State::Scheduled, Some(mut copy)) => {
                copy.hop.due = Some(self.now);
                self.publish(copy)?;
                Ok(Acted::Done)
            }
            (state, _) => Ok(Acted::Refused(format!(
                "it is {state}; only scheduled jobs can be run now"
            ))),
        }
    }

    fn forget(&mut self, id: JobId) -> Sql<Acted> {
        let Some(found) = self.find(id)? else {
            return Ok(Acted::Unknown);
        };
        if !found.entry.state.is_ended() {
            return Ok(Acted::Refused(format!("it is {}; cancel it first", found.entry.state)));
        }
        for key in [id.record_at(0), RecordKey::Own(id)] {
            self.records.forget(&self.tables, key, id)?;
        }
        self.tables.delete_values(id)?;
        self.tables.delete_log(id)?;
        Ok(Acted::Done)
    }
}
