use crate::record::Entry;
use crate::wire::JobCopy;

/// Takes a copy for the truth: the entry is absent or of a lower hand, so it says what the copy
/// says. Waiters, and a cancel that was asked for, stay.
#[must_use]
pub fn adopt(entry: Option<Entry>, copy: &JobCopy) -> Entry {
    let mut adopted = Entry::accepted(copy);
    if let Some(older) = entry {
        for mailbox in older.waiters {
            if !adopted.waiters.contains(&mailbox) {
                adopted.waiters.push(mailbox);
            }
        }
        adopted.cancel_asked = older.cancel_asked;
        adopted.notes = older.notes;
        adopted.crashes = older.crashes;
    }
    adopted
}
