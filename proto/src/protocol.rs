//! Every decision about a job's life, as pure functions.
//!
//! Each takes the job's entry as the store has it (or `None`), an event and the time, and answers
//! what to do and what the entry becomes. The same functions serve every back end: SQLite and
//! memory apply them in one transaction, Redis by compare-and-swap.
//!
//! Three laws hold for all of them:
//! 1. **Truth.** The queue is the truth: a job that has not ended has a copy there.
//! 2. **Drop.** A copy is acknowledged without running only if the record says that the job ended
//!    at this hand or a later one, or proves a confirmed successor.
//! 3. **Write.** Every write is guarded by the fence and harmless when repeated.

mod adopt;
mod cancel;
mod confirm;
mod decide;
mod detach;
mod finish;
mod give_back;
mod leave;
mod meet;
mod park;
mod retry;
mod split;
mod suspects;

pub use adopt::adopt;
pub use cancel::{Cancel, cancel};
pub use confirm::{Confirmed, confirm, confirm_published};
pub use decide::{Decision, Ended, decide};
pub use detach::{detach, watch_again};
pub use finish::{End, Written, finish};
pub use give_back::give_back;
pub use leave::leave;
pub use meet::{Meeting, Situation, meet};
pub use park::{park, parked_copy};
pub use retry::{RetryRefused, retry};
pub use split::{must_split, split};
pub use suspects::{Suspicion, suspicion};

use crate::record::{Entry, Fence};
use crate::sabotage::{Bug, planted};
use crate::wire::JobCopy;

/// What a write with a fence finds.
enum Standing {
    /// The fence is the newest: the write applies to this entry.
    Mine(Box<Entry>),
    /// This very write was applied before.
    Done,
    /// Another claim, or a later hand, stands above it.
    Stale,
}

/// Holds `fence` against the entry. A record that is missing or older than the fence was lost or
/// rolled back: it is adopted, never taken as "stale", which would lose the job.
fn standing(entry: Option<Entry>, copy: &JobCopy, fence: Fence) -> Standing {
    let mut entry = match entry {
        Some(entry) if entry.hand >= fence.hand => entry,
        older => adopt(older, copy),
    };
    if planted(Bug::IgnoreFence) {
        return Standing::Mine(Box::new(entry));
    }
    if entry.hand > fence.hand || entry.moved {
        return Standing::Stale;
    }
    if entry.claims < fence.claim || (entry.claims == 0 && entry.token == 0) {
        entry.claims = fence.claim;
        entry.token = fence.token;
        if !entry.state.is_ended() {
            return Standing::Mine(Box::new(entry));
        }
    }
    let token_known = entry.token == fence.token || planted(Bug::TokenNotChecked);
    if entry.claims > fence.claim || !token_known {
        return Standing::Stale;
    }
    if entry.state.is_ended() || entry.leaving.is_some() {
        return Standing::Done;
    }
    Standing::Mine(Box::new(entry))
}
