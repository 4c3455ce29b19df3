//! `millhand dashboard`

use millhand_dashboard::Dashboard;

use crate::args::{DashboardArgs, Global};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::Ui;

pub(super) async fn run(args: DashboardArgs, global: &Global, ui: &Ui) -> Outcome {
    let settings = super::settings(global)?;
    let client = super::client(&settings, false)?;
    let place = client.backend().facts().place;
    let dashboard = Dashboard::bind(client, args.bind).await.map_err(|e| {
        Failure::new(Exit::Failed, "bind", e.to_string()).hint("--bind 127.0.0.1:0 takes any port that is free")
    })?;
    ui.note(&format!(
        "dashboard of {place} at http://{}; Ctrl-C stops it",
        dashboard.address()
    ));
    dashboard.serve(millhand_worker::shutdown_signal()).await;
    Ok(Exit::Done)
}
