//! What the fuzz targets do with a settings file and with durations; see `fuzz/README.md`. Compiled into tests
//! and into the targets only.

use crate::{settings, sizes, times};

/// Reads a settings file.
pub fn config(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        settings::fuzz::settings(text);
    }
}

/// Reads durations, times and sizes as people write them.
pub fn duration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match times::duration(text) {
        Ok(span) => {
            assert_eq!(times::when(text), Ok(times::When::In(span)));
            if let Ok(millis) = u64::try_from(span.as_millis()) {
                assert_eq!(times::duration(&format!("{millis}ms")), Ok(span));
            }
        }
        Err(said) => assert!(said.contains("is no duration")),
    }
    if let Ok(times::When::At(time)) = times::when(text) {
        let shown = times::rfc3339(time);
        assert!(
            matches!(times::when(&shown), Ok(times::When::At(again)) if again <= time),
            "{text} is {shown}"
        );
    }
    if let Ok(bytes) = sizes::bytes(text) {
        assert_eq!(sizes::bytes(&format!("{bytes}B")), Ok(bytes));
    }
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_of_settings_files() {
        // The parser and the tables it makes; who writes such a file can do worse.
        replay::corpus("config", 1 << 20, config, config);
    }

    #[test]
    fn the_corpus_of_durations() {
        replay::corpus("duration", 16 << 10, duration, duration);
    }

    #[test]
    fn a_file_of_wrong_keys_is_soon_said_to_be_one() {
        let text: String = (0..20_000).map(|n| format!("k{n} = 1\n")).collect();
        replay::bounded("wrong keys", text.as_bytes(), 64 << 20, config);
    }
}
