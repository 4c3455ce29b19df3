//! What the fuzz targets do with headers and URLs; see `fuzz/README.md`. Compiled into tests and into the
//! targets only.

use lapin::BasicProperties;
use lapin::types::FieldTable;
use lapin::types::parsing::parse_field_table;

use crate::rabbitmq;
use crate::url::{BackendUrl, UrlError};

/// A word that stands for a password.
const SECRET: &str = "canary";

/// A table of headers as lapin reads it. Its parser goes a level down the stack for each level of nesting,
/// and a table of 2,000 levels ends the process: what may be so deep is not given to it.
fn table(data: &[u8]) -> Option<FieldTable> {
    let nests = data.iter().filter(|byte| matches!(byte, b'A' | b'F')).count();
    let parsed = (nests <= 100).then(|| parse_field_table(data).ok()).flatten();
    parsed.filter(|(rest, _)| rest.is_empty()).map(|(_, table)| table)
}

/// What we read of a message's headers is a number and a time, whatever stands there.
pub fn headers(data: &[u8]) {
    let Some(table) = table(data) else { return };
    let properties = BasicProperties::default().with_headers(table);
    let (redeliveries, published_at) = rabbitmq::told(&properties);
    assert!(published_at.is_none_or(millhand_proto::Timestamp::is_plausible));
    let counted = ["x-acquired-count", "x-delivery-count"].map(|name| properties.headers().as_ref()?.inner().get(name));
    assert!(redeliveries == 0 || counted.iter().any(Option::is_some));
}

/// The first line names a broker, the second a store. Neither an error nor what is shown holds a password.
pub fn url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (broker, store) = text.split_once('\n').map_or((text, None), |(b, s)| (b, Some(s)));
    let shown = match BackendUrl::of(broker, store) {
        Ok(url) => {
            assert_eq!(BackendUrl::of(broker, store).as_ref(), Ok(&url));
            format!("{url:?}")
        }
        Err(error) => said(&error),
    };
    // What stands behind a colon and before an @ may be a password.
    let hidden = |url: &str| {
        let (scheme, behind) = url.split_once(':').unwrap_or_default();
        // A file may be called anything but that.
        let behind = match scheme {
            "sqlite" => behind.split_once("://").unwrap_or_default().1,
            _ => behind,
        };
        let (login, rest) = behind.rsplit_once('@').unwrap_or_default();
        login.contains(SECRET) && !scheme.contains(SECRET) && !rest.contains(SECRET)
    };
    let urls = [Some(broker), store].into_iter().flatten();
    let hidden = urls.filter(|url| url.contains(SECRET)).all(hidden);
    assert!(!hidden || !shown.contains(SECRET), "{shown}");
}

fn said(error: &UrlError) -> String {
    let said = format!("{error} {error:?} {}", error.problem());
    assert!(said.len() < 4096, "an error is a sentence");
    said
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_of_headers() {
        // Each value of a table takes some 100 bytes.
        replay::corpus("headers", 256 << 10, |data| drop(table(data)), headers);
    }

    #[test]
    fn the_corpus_of_urls() {
        replay::corpus(
            "url",
            64 << 10,
            |data| drop(std::str::from_utf8(data).map(|text| BackendUrl::of(text, None))),
            url,
        );
    }
}
