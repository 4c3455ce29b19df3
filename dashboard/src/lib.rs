//! The dashboard: what an operator looks at. It reads through the one door, changes nothing, and
//! listens on this machine only.
//!
//! `figures` reads the back end for all who look, `history` and `day` hold the numbers of a day, `overview` and `job` make pages of it, `live`
//! tells open pages what changed, and `guard` is what every request meets first.

mod chart;
mod checks;
mod day;
mod figures;
mod guard;
mod history;
mod icon;
mod job;
mod live;
mod overview;
mod pages;
mod range;
mod say;
mod server;

pub use server::{BindError, Dashboard, Loopback};
