//! The scenarios, by what is harmed.

mod crash_points;
mod kills;
mod rabbit;
mod reach;
mod stores;
mod wires;

use millhand_broker::crash::POINTS;

use crate::scenario::Scenario;

/// All of them, in the order of their numbers.
pub(crate) fn all() -> Vec<&'static Scenario> {
    let parts = [
        crash_points::SCENARIOS,
        kills::SCENARIOS,
        rabbit::SCENARIOS,
        reach::SCENARIOS,
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
        println!("{}  {}", scenario.name, scenario.what);
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
