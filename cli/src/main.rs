//! The program `millhand`.

mod args;
mod commands;
mod demo;
mod exit;
#[cfg(test)]
mod fixture;
mod output;
mod settings;
mod show;
mod times;
mod views;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;
use crate::exit::{Exit, Failure};
use crate::output::Ui;

fn main() -> ExitCode {
    // Usage errors end here, with clap's own code 2 and its own words.
    let cli = Cli::parse();
    let ui = Ui::new(&cli.global);
    let exit = commands::run(cli, &ui).unwrap_or_else(|failure| {
        ui.fail(&failure);
        failure.exit
    });
    exit.into()
}

/// A runtime for one command.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    built.map_err(|e| Failure::new(Exit::Failed, "runtime", format!("no runtime can be started: {e}")))
}
