//! Workers, while what they need goes wrong: nothing is lost, nothing is stuck, nothing counts twice.
//! One program, so that those that mostly wait do so side by side; the longest first, which is by name.
#![allow(missing_docs, clippy::unwrap_used)]

mod awaiting;
mod kills;
mod long_jobs;
mod lossy_backend;
mod retries;
mod rolling_restarts;
mod servers;
mod settle;
mod work;
