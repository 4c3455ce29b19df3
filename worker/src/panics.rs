//! Panics of handlers: caught, with where they happened.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;

use crate::registry;

/// Frames that are kept.
const FRAMES: usize = 32;

thread_local! {
    /// A handler runs on this thread: its panic is to be remembered.
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static LAST: RefCell<Option<Place>> = const { RefCell::new(None) };
}

/// Where a panic happened.
struct Place {
    location: String,
    backtrace: Backtrace,
}

/// Adds to the program's panic hook that handlers' panics are remembered with their backtraces. A hook is
/// the program's, not a worker's: the first worker adds it, and what was there is called as before.
pub(crate) fn remember() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            note(info);
            before(info);
        }));
    });
}

fn note(info: &PanicHookInfo<'_>) {
    if CATCHING.get() {
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        // Only walks the stack; names are looked up when it is written.
        let backtrace = Backtrace::force_capture();
        LAST.set(Some(Place { location, backtrace }));
    }
}

/// A handler's panic, not yet written down: to look up the names of a backtrace takes a while.
pub(crate) struct Caught {
    message: String,
    place: Option<Place>,
}

/// Runs a handler's code.
pub(crate) fn catch<T>(code: impl FnOnce() -> T) -> Result<T, Caught> {
    let around = CATCHING.replace(true);
    let answer = catch_unwind(AssertUnwindSafe(|| handler_begins(code)));
    CATCHING.set(around);
    answer.map_err(|panic| {
        let caught = Caught {
            message: message(&*panic),
            place: LAST.take(),
        };
        // What a panic carries is the handler's too, and may panic when it is dropped.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            std::mem::forget(again);
        }
        caught
    })
}

/// Marks in a backtrace where the handler's frames end.
#[inline(never)]
fn handler_begins<T>(code: impl FnOnce() -> T) -> T {
    let answer = code();
    // Keeps the call above from becoming a jump.
    std::hint::black_box(());
    answer
}

/// What a panic said.
pub(crate) fn message(panic: &(dyn Any + Send)) -> String {
    let said = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", said.unwrap_or("without a message"))
}

impl Caught {
    /// What it said, where, and how it came there.
    pub(crate) fn text(&self) -> String {
        let Some(place) = &self.place else {
            return self.message.clone();
        };
        let trace = of_the_handler(&place.backtrace.to_string());
        format!("{}\nat {}\n{trace}", self.message, place.location)
    }
}

/// The frames between the panic and this crate's machinery, one or two lines each: the handler's own.
fn of_the_handler(trace: &str) -> String {
    let mut frames: Vec<Vec<&str>> = Vec::new();
    for line in trace.lines() {
        let line = line.trim();
        let name = line
            .split_once(": ")
            .filter(|(number, _)| number.parse::<u32>().is_ok());
        match (name, frames.last_mut()) {
            (Some((_, name)), _) => frames.push(vec![name]),
            (None, Some(frame)) => frame.push(line),
            (None, None) => {}
        }
    }
    let starts =
        |frame: &Vec<&str>, with: &[&str]| with.iter().any(|at| frame[0].trim_start_matches('<').starts_with(at));
    // The panic's own frames come first.
    let hook = frames
        .iter()
        .position(|frame| frame[0].contains("__rust_end_short_backtrace"));
    let frames = &frames[hook.map_or(0, |at| at + 1)..];
    let panicking = |frame: &&Vec<&str>| {
        starts(
            frame,
            &[
                "__rustc::",
                "rust_begin_unwind",
                "core::panicking::",
                "std::panicking::",
            ],
        )
    };
    let frames = &frames[frames.iter().take_while(panicking).count()..];
    // What is inlined has no path in its name, but is in a file.
    let machinery = |frame: &Vec<&str>| {
        frame[0].contains("millhand_worker::registry::")
            || frame[0].contains("handler_begins")
            || frame.get(1).is_some_and(|at| is_in(registry::FILE, at))
    };
    let last = frames.iter().position(machinery).unwrap_or(frames.len());
    let kept = frames[..last].iter().take(FRAMES);
    kept.map(|frame| format!("  {}", frame.join("\n    ")))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Whether a frame's line (`at FILE:LINE:COLUMN`, its path from the working folder on where it lies below)
/// is in this file.
fn is_in(file: &str, at: &str) -> bool {
    let at = at.trim_start_matches("at ");
    match at.strip_prefix("./") {
        Some(below) => std::env::current_dir().is_ok_and(|here| here.join(below).to_string_lossy().starts_with(file)),
        None => at.starts_with(file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn deep(n: u32) -> u32 {
        if n == 0 {
            let nothing = std::hint::black_box(None::<u32>);
            return nothing.expect("something");
        }
        std::hint::black_box(deep(n - 1)) + 1
    }

    #[test]
    fn a_panic_is_told_with_its_place_and_the_handlers_frames() {
        remember();
        let Err(caught) = catch(|| deep(2)) else {
            panic!("it panics")
        };
        let text = caught.text();
        assert!(
            text.starts_with("panicked: something\nat worker/src/panics.rs:"),
            "{text}"
        );
        assert_eq!(text.matches("::deep").count(), 3, "{text}");
        for machinery in ["panicking", "force_capture", "catch_unwind", "rust_begin_unwind"] {
            assert!(!text.contains(machinery), "{text}");
        }
        // Nothing of it is left for the next one.
        assert!(LAST.take().is_none());
        assert!(!CATCHING.get());
    }

    #[test]
    fn what_panics_again_when_it_is_dropped_ends_nothing() {
        struct Twice;
        impl Drop for Twice {
            fn drop(&mut self) {
                std::panic::panic_any(1);
            }
        }
        let caught = catch(|| std::panic::panic_any(Twice))
            .err()
            .map(|caught| caught.message);
        assert_eq!(caught.as_deref(), Some("panicked: without a message"));
    }

    #[test]
    fn a_panic_of_somebody_else_is_not_remembered() {
        remember();
        assert!(std::panic::catch_unwind(|| deep(0)).is_err());
        assert!(LAST.take().is_none());
    }
}
