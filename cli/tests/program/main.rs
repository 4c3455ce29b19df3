//! The program, as its users start it.
#![allow(clippy::unwrap_used)]

mod child_check;
mod children;
mod dashboard;
mod demo;
mod exit_codes;
mod fleet;
mod health;
mod place;
mod secrets;
mod stop;
mod tls;
