//! `millhand limits`

use millhand_proto::limits::TABLE;

use crate::args::Format;
use crate::exit::{Exit, Outcome};
use crate::output::{Align, Style, Table, Ui};
use crate::views::{Items, LimitJson};

pub(super) fn run(ui: &Ui) -> Outcome {
    let items = || TABLE.iter().map(LimitJson::from).collect::<Vec<_>>();
    match ui.format {
        Format::Text => ui.print(&text(ui.style))?,
        Format::Json => ui.document(&Items {
            schema: "millhand.limits/1".into(),
            items: items(),
        })?,
        Format::Jsonl => ui.lines(&items())?,
    }
    Ok(Exit::Done)
}

fn text(style: Style) -> String {
    let mut table = Table::new(&[("LIMIT", Align::Left), ("VALUE", Align::Left), ("MEANING", Align::Left)]);
    for limit in TABLE {
        table.row(vec![limit.name.into(), limit.value.into(), limit.meaning.into()]);
    }
    table.render(style)
}
