use crate::limits;

/// What the deaths of workers under a job say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// Nothing yet.
    None,
    /// It may have killed them: it runs with no other suspect beside it.
    Suspect,
    /// It did so too often: dead with `worker_lost`.
    Guilty,
}

/// Judges a job by the workers that died under it at this hand.
#[must_use]
pub fn suspicion(deaths: u32) -> Suspicion {
    if deaths >= limits::SUSPECT_AFTER + limits::SUSPECT_DEATHS {
        Suspicion::Guilty
    } else if deaths >= limits::SUSPECT_AFTER {
        Suspicion::Suspect
    } else {
        Suspicion::None
    }
}
