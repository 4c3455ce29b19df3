//! `millhand dashboard`, from outside.

use std::process::Stdio;

use crate::place::{Lines, Place, Running, page, signal};

#[test]
fn it_shows_what_is_there_until_it_is_told_to_stop() {
    let place = Place::new();
    place.expect(5, &["dashboard"]);
    let id = place.expect(0, &["enqueue", "wordcount"]).0;
    let mut command = place.command(&["dashboard", "--bind", "127.0.0.1:0"]);
    let mut dashboard = Running(command.stderr(Stdio::piped()).spawn().unwrap());
    let address = Lines::of(dashboard.0.stderr.take().unwrap()).between("http://", ";");
    for path in ["/".to_owned(), format!("/jobs/{}", id.trim())] {
        let page = page(&address, &path);
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("queued"), "{page}");
    }
    let (_, err) = place.expect(1, &["dashboard", "--bind", &address]);
    assert!(err.contains("cannot be listened on") && err.contains("--bind"), "{err}");
    signal(&dashboard.0, "-INT");
    assert_eq!(dashboard.0.wait().unwrap().code(), Some(0));
}

#[test]
fn it_is_never_reached_from_elsewhere() {
    let place = Place::new();
    for address in ["0.0.0.0:7700", "[::]:0", "192.168.1.5:80"] {
        let (_, err) = place.expect(2, &["dashboard", "--bind", address]);
        assert!(err.contains("no sign-in") && err.contains("ssh -L"), "{err}");
    }
    let (_, err) = place.expect(2, &["dashboard", "--bind", "7700"]);
    assert!(err.contains("it is no address"), "{err}");
}
