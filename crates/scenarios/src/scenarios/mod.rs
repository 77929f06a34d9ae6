//! What is tried.

mod basics;
mod bounds;
mod broken;
mod children;
mod clients;
mod cpu_time;
mod cpus;
mod crowd;
mod grants;
mod hostile;
mod huge;
mod image;
mod interruption;
mod limits;
mod real;
mod steps;
mod systems;
mod traces;

use crate::runner::Scenario;

/// All scenarios, in the order in which they run: the long ones first, so that they do not end up alone at the end.
pub fn all() -> Vec<Scenario> {
    [
        real::SCENARIOS,
        huge::SCENARIOS,
        steps::SCENARIOS,
        broken::SCENARIOS,
        bounds::SCENARIOS,
        basics::SCENARIOS,
        grants::SCENARIOS,
        image::SCENARIOS,
        interruption::SCENARIOS,
        limits::SCENARIOS,
        hostile::SCENARIOS,
        systems::SCENARIOS,
        clients::SCENARIOS,
        crowd::SCENARIOS,
        cpus::SCENARIOS,
        cpu_time::SCENARIOS,
        children::SCENARIOS,
        traces::SCENARIOS,
    ]
    .concat()
}
