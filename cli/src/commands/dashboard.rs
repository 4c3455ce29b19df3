//! `millhand dashboard`

use millhand_dashboard::{BindError, Dashboard};

use crate::args::{DashboardArgs, Global};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::Ui;

pub(super) async fn run(args: DashboardArgs, global: &Global, ui: &Ui) -> Outcome {
    let settings = super::settings(global)?;
    let client = super::client(&settings, false)?;
    let place = client.backend().facts().place;
    let dashboard = Dashboard::bind(client, args.bind).await.map_err(|error| {
        let message = error.to_string();
        match error {
            BindError::Taken { address, source } => super::not_bound(message, source.kind(), "--bind", address),
            _ => Failure::usage(message),
        }
    })?;
    ui.note(&format!(
        "dashboard of {place} at http://{}; Ctrl-C stops it",
        dashboard.address()
    ));
    dashboard.serve(millhand_worker::shutdown_signal()).await;
    Ok(Exit::Done)
}
