//! The scenarios, by what is harmed.

mod cancels;
mod children;
mod crash_points;
mod floods;
mod kills;
mod parcels;
mod poison;
mod rabbit;
mod reach;
mod sqlite;
mod stops;
mod stores;
mod wires;

use millhand_broker::crash::POINTS;

use crate::scenario::{Options, Scenario};

/// All of them, in the order of their numbers.
pub(crate) fn all() -> Vec<&'static Scenario> {
    let parts = [
        cancels::SCENARIOS,
        children::SCENARIOS,
        crash_points::SCENARIOS,
        floods::SCENARIOS,
        kills::SCENARIOS,
        parcels::SCENARIOS,
        poison::SCENARIOS,
        rabbit::SCENARIOS,
        reach::SCENARIOS,
        sqlite::SCENARIOS,
        stops::SCENARIOS,
        stores::SCENARIOS,
        wires::SCENARIOS,
    ];
    let mut all: Vec<&'static Scenario> = parts.into_iter().flatten().collect();
    all.sort_by_key(|scenario| scenario.name);
    all
}

/// Prints what can be run.
pub(crate) fn list() {
    for scenario in all() {
        let places = match Vec::from_iter(scenario.places(Options::default()))[..] {
            [one] => one,
            _ => "both",
        };
        println!("{}  {places:<7} {}", scenario.name, scenario.what);
    }
    println!("\ncrash points:");
    for point in POINTS {
        let places = match (point.fleet, point.sqlite) {
            (true, true) => "both",
            (true, false) => "fleet",
            (false, _) => "sqlite",
        };
        println!("  {:<24} {places:<7} {}", point.name, point.state);
    }
}
