//! The one door into queue and store, [`Backend`], and what fills it.
//!
//! [`memory::Memory`] and [`sqlite::Sqlite`] serve one machine; both are the engine in `local/`,
//! which applies the pure rules of `millhand_proto::protocol` in one transaction. `pair/` is a fleet:
//! a queue that carries (`rabbitmq/`) and a store that remembers (`redis/`), with the order between
//! them. [`conformance`] is the suite that every back end passes.

mod backend;
mod clock;
mod coalesce;
pub mod conformance;
pub mod crash;
mod error;
pub mod faults;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(test)]
mod golden;
mod io;
mod local;
mod lock;
pub mod memory;
mod pair;
mod rabbitmq;
mod redis;
pub mod sqlite;
mod tls;
mod unreadable;
mod url;
mod view;

pub use backend::{
    Act, Acted, Backend, BoxFuture, Claim, Consumer, Control, Controlled, Counts, Delivery, DeliveryId, Facts, Flow,
    Looked, Mail, Pending, Pushed, Rebuilt, Release, Settled, Settlement, Subscription, Verdict,
};
pub use clock::Clock;
pub use coalesce::Coalescer;
pub use error::{Error, Result};
pub use url::{BackendUrl, PairUrl, UrlError, open};
pub use view::{
    JobFilter, JobPage, JobView, LongPoll, LoopLag, QueueView, Unreadable, WorkerBeat, WorkerHealth, WorkerView,
};
