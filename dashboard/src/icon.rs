//! States and marks as shapes: the shape and the word beside it say what is meant, the colour helps.

use std::fmt;

use askama::filters::HtmlSafe;
use millhand_proto::State;

/// A shape of 16 × 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Icon {
    State(State),
    /// An attempt that failed; no job is in this state.
    Failed,
    Paused,
    NoWorker,
    Late,
    Problem,
}

impl Icon {
    /// How an attempt ended.
    pub(crate) fn of_attempt(end: millhand_proto::AttemptEnd) -> Self {
        use millhand_proto::AttemptEnd;
        match end {
            AttemptEnd::Succeeded => Self::State(State::Succeeded),
            AttemptEnd::Cancelled => Self::State(State::Cancelled),
            AttemptEnd::Snoozed => Self::State(State::Scheduled),
            AttemptEnd::Interrupted => Self::State(State::Queued),
            AttemptEnd::Failed | AttemptEnd::TimedOut | AttemptEnd::Crashed | AttemptEnd::WorkerLost => Self::Failed,
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::State(state) => state.as_str(),
            Self::Failed | Self::Problem => "failed",
            Self::Paused | Self::NoWorker | Self::Late => "mark",
        }
    }

    const fn shape(self) -> &'static str {
        match self {
            Self::State(State::Scheduled) => r#"<circle cx="8" cy="8" r="6"/><path d="M8 4.5V8l2.5 1.8"/>"#,
            Self::State(State::Queued) => r#"<circle cx="8" cy="8" r="5"/>"#,
            Self::State(State::Running) => r#"<path class="full" d="M4.5 2.5v11l9-5.5z"/>"#,
            Self::State(State::Retrying) => r#"<path d="M13 8.5a5 5 0 1 1-1.5-4.1M13.2 1.8v3.4H9.8"/>"#,
            Self::State(State::Succeeded) => r#"<path d="M2.8 8.6l3.4 3.4 7-7.6"/>"#,
            Self::State(State::Dead) => {
                r#"<rect class="full" x="2" y="2" width="12" height="12" rx="1.5"/><path class="on" d="M5.4 5.4l5.2 5.2M10.6 5.4l-5.2 5.2"/>"#
            }
            Self::State(State::Cancelled) => r#"<circle cx="8" cy="8" r="6"/><path d="M5 8h6"/>"#,
            Self::State(State::Expired) => r#"<path d="M4 2h8M4 14h8M5 2c0 5 6 7 6 12M11 2c0 5-6 7-6 12"/>"#,
            Self::Failed => r#"<path d="M3.5 3.5l9 9M12.5 3.5l-9 9"/>"#,
            Self::Paused => r#"<path d="M5.5 3v10M10.5 3v10"/>"#,
            Self::NoWorker => r#"<path d="M5.5 1.5v3.5M10.5 1.5v3.5M3.5 5h9v2.5a4.5 4.5 0 0 1-9 0zM8 12v2.5"/>"#,
            Self::Late => r#"<circle cx="8" cy="8" r="6" stroke-dasharray="6.5 3"/>"#,
            Self::Problem => r#"<path d="M8 2.2l6.2 11.3H1.8zM8 6.4v3.2M8 11.4v.4"/>"#,
        }
    }
}

impl fmt::Display for Icon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (class, shape) = (self.class(), self.shape());
        write!(
            f,
            r#"<svg class="icon {class}" width="16" height="16" viewBox="0 0 16 16" aria-hidden="true">{shape}</svg>"#
        )
    }
}

/// Nothing in it comes from elsewhere.
impl HtmlSafe for Icon {}
