//! The program `millhand`. It is a library with one function, so that fuzz targets reach what reads its
//! settings and words.

mod args;
mod commands;
mod demo;
mod exit;
#[cfg(test)]
mod fixture;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
mod output;
mod settings;
mod show;
mod sizes;
mod stats;
mod times;
mod views;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;
use crate::exit::{Exit, Failure};
use crate::output::Ui;

/// Runs the program on this process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    // Usage errors end here, with clap's own code 2 and its own words.
    let cli = Cli::try_parse().unwrap_or_else(|error| refuse(&error));
    let ui = Ui::new(&cli.global);
    let exit = commands::run(cli, &ui).unwrap_or_else(|failure| {
        ui.fail(&failure);
        failure.exit
    });
    exit.into()
}

/// Ends the program with what clap says: help, or what is wrong, as JSON where JSON was asked for.
fn refuse(error: &clap::Error) -> ! {
    let mut args = std::env::args().skip(1).peekable();
    let mut json = false;
    while let Some(arg) = args.next() {
        let value = match arg.as_str() {
            "-o" | "--output" => args.peek().cloned().unwrap_or_default(),
            _ => arg.trim_start_matches("--output=").trim_start_matches("-o").to_owned(),
        };
        json |= arg == "--json" || (arg.starts_with('-') && value.starts_with("json"));
    }
    let text = error.to_string();
    // It repeats what it does not understand: a URL may be that.
    let shown = exit::without_secrets(&text);
    if json && error.use_stderr() {
        let text = shown;
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        eprintln!("{}", Failure::usage(message).to_json());
        std::process::exit(i32::from(Exit::Usage.code()));
    }
    if shown != text {
        eprint!("{shown}");
        std::process::exit(i32::from(Exit::Usage.code()));
    }
    error.exit()
}

/// A runtime for one command.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    built.map_err(|e| Failure::new(Exit::Failed, "runtime", format!("no runtime can be started: {e}")))
}
