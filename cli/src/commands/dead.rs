//! `millhand dead`: the backup of dead jobs.

use std::sync::atomic::Ordering;

use serde::Serialize;

use super::act::stop_flag;
use super::queue::interrupted;
use crate::args::{DeadCommand, Format, Global};
use crate::exit::Outcome;
use crate::output::{Ui, plural};

#[derive(Serialize)]
struct RebuiltJson {
    schema: &'static str,
    looked_at: usize,
    remembered: usize,
}

pub(super) async fn run(command: DeadCommand, global: &Global, ui: &Ui) -> Outcome {
    let DeadCommand::Rebuild = command;
    let settings = super::settings(global)?;
    let client = super::client(&settings, false)?;
    let stop = stop_flag();
    let heard = stop.clone();
    let mut progress = ui.progress("looking at", None);
    let admin = client.admin();
    let goes_on = move |so_far| {
        progress.at(so_far);
        !heard.load(Ordering::SeqCst)
    };
    let rebuilt = admin.rebuild_dead(goes_on).await?;
    match ui.format {
        Format::Text => ui.note(&format!(
            "looked at {} in the queue; remembered {} again",
            plural(rebuilt.looked_at as u64, "dead job"),
            plural(rebuilt.remembered as u64, "job")
        )),
        Format::Json | Format::Jsonl => ui.document(&RebuiltJson {
            schema: "millhand.dead.rebuild/1",
            looked_at: rebuilt.looked_at,
            remembered: rebuilt.remembered,
        })?,
    }
    Ok(interrupted(&stop))
}
