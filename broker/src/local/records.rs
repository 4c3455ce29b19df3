//! Records inside one transaction: each is read once and written once, however many of its jobs
//! are claimed or settled together.

use std::cell::RefCell;
use std::collections::HashMap;

use millhand_proto::{Class, Entry, JobId, QueueName, Record, RecordKey};

use super::tables::{Sql, Tables};

/// Records that are held at once; above it, those that did not change are let go.
const HELD: usize = 1024;

#[derive(Default)]
pub(super) struct Records(RefCell<HashMap<RecordKey, Held>>);

struct Held {
    record: Option<Record>,
    changed: bool,
}

impl Records {
    fn with<T>(&self, tables: &Tables<'_>, key: RecordKey, look: impl FnOnce(&mut Held) -> T) -> Sql<T> {
        let mut held = self.0.borrow_mut();
        if held.len() >= HELD {
            held.retain(|_, held| held.changed);
        }
        Ok(look(match held.entry(key) {
            std::collections::hash_map::Entry::Occupied(place) => place.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => place.insert(Held {
                record: tables.record(key)?,
                changed: false,
            }),
        }))
    }

    /// Queue and class of a record, and the entry of `id` in it.
    pub(super) fn get(&self, tables: &Tables<'_>, key: RecordKey, id: JobId) -> Sql<Option<(QueueName, Class, Entry)>> {
        self.with(tables, key, |held| {
            let record = held.record.as_ref()?;
            let entry = record.entry(key, id)?.clone();
            Some((record.queue.clone(), record.class, entry))
        })
    }

    /// Puts an entry into a record, which is made where there is none.
    pub(super) fn put(
        &self,
        tables: &Tables<'_>,
        (key, queue, class): (RecordKey, QueueName, Class),
        entry: Entry,
    ) -> Sql<()> {
        self.with(tables, key, |held| {
            held.record.get_or_insert_with(|| Record::new(queue, class)).put(entry);
            held.changed = true;
        })
    }

    /// Takes an entry out; a record without entries goes.
    pub(super) fn forget(&self, tables: &Tables<'_>, key: RecordKey, id: JobId) -> Sql<()> {
        self.with(tables, key, |held| {
            let Some(record) = &mut held.record else { return };
            let slot = millhand_proto::record::slot(key, id);
            record.entries.retain(|entry| entry.index != slot);
            if record.entries.is_empty() {
                held.record = None;
            }
            held.changed = true;
        })
    }

    /// Writes what changed.
    pub(super) fn write(&self, tables: &Tables<'_>) -> Sql<()> {
        for (key, held) in self.0.borrow_mut().drain().filter(|(_, held)| held.changed) {
            match held.record {
                Some(record) => tables.put_record(key, &record)?,
                None => tables.delete_record(key)?,
            }
        }
        Ok(())
    }
}
