//! The pages in a browser: drawn, changed in place, and silent in the console.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "common/browser.rs"]
mod driver;

use std::sync::Arc;

use common::{Break, Site, echo, fill, work};
use driver::Browser;
use millhand_broker::Backend;
use millhand_broker::memory::Memory;
use millhand_client::Client;
use millhand_proto::{Count, QueueName, Tally, TaskName};

/// Drives the browser beside the server, on a thread of its own.
async fn look<T: Send + 'static>(
    mut browser: Browser,
    at: impl FnOnce(&mut Browser) -> T + Send + 'static,
) -> (Browser, T) {
    let looked = move || {
        let seen = at(&mut browser);
        (browser, seen)
    };
    tokio::task::spawn_blocking(looked).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_drawn_in_every_width_and_scheme_and_the_console_is_silent() {
    let backend: Arc<dyn Backend> = Memory::open().unwrap();
    let (done, dead) = fill(&backend).await;
    let site = Site::start(&backend).await;
    let base = format!("http://{}", site.address);
    let (browser, ()) = look(Browser::start(), move |browser| {
        for scheme in ["light", "dark"] {
            browser.scheme(scheme);
            for width in [320, 400, 800, 1400] {
                browser.resize(width);
                for path in ["/".into(), format!("/jobs/{done}"), format!("/jobs/{dead}"), "/jobs/x".into()] {
                    browser.open(&format!("{base}{path}"));
                    let wide = browser.eval("document.documentElement.scrollWidth - innerWidth");
                    assert!(wide.as_i64().unwrap() <= 0, "{path} is {wide} px wider than {width}");
                }
            }
            browser.open(&base);
            let page = browser.eval("getComputedStyle(document.body).backgroundColor");
            let want = if scheme == "light" { "rgb(255, 255, 255)" } else { "rgb(18, 22, 27)" };
            assert_eq!(page, want, "the style sheet rules");
            let bars = "[...document.querySelectorAll('#plot-finished .bar rect')].filter(r => r.getBoundingClientRect().height > 20 && r.getBoundingClientRect().width > 1).length";
            assert!(browser.eval(bars).as_u64().unwrap() > 0, "bars have a size");
            let spot = "document.querySelector('.spots rect').getBoundingClientRect().height";
            assert_eq!(browser.eval(spot), 150);
            browser.until("document.getElementById('status').dataset.state === 'live'");
        }
        // The missing page is a 404 and a 400 is one too: a browser logs those itself.
        browser.complaints.retain(|text| !text.contains("/jobs/x"));
        assert_eq!(browser.complaints, [""; 0]);
        // What the policy refuses would be seen.
        browser.eval("document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.bad = 1' }))");
        assert_eq!(browser.eval("typeof window.bad"), "undefined");
        assert!(browser.complaints.iter().any(|text| text.contains("Content Security Policy")), "{:?}", browser.complaints);
    })
    .await;
    drop(browser);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remark_under_a_list_is_no_new_row() {
    let backend: Arc<dyn Backend> = Memory::open().unwrap();
    let tally = |task: usize| {
        let task = TaskName::new(&format!("task-{task:02}")).unwrap();
        let mut tally = Tally::new(Tally::minute_of(backend.now()), QueueName::default(), task);
        tally.numbers.count(Count::Failed);
        tally
    };
    backend.tally(1, (0..20).map(tally).collect()).await.unwrap();
    let site = Site::start(&backend).await;
    let address = site.address;
    let (browser, ()) = look(Browser::start(), move |browser| {
        browser.open(&format!("http://{address}"));
        browser.until("document.getElementById('status').dataset.state === 'live'");
        assert_eq!(browser.eval("document.querySelectorAll('#tasks tr').length"), 20);
    })
    .await;
    // It fails most, so it is listed, and 'and 1 more' under it is new too.
    backend.tally(2, vec![tally(20), tally(20)]).await.unwrap();
    let (browser, ()) = look(browser, |browser| {
        browser.until("!document.querySelector('.offer[data-for=tasks]').hidden");
        let offer = "document.querySelector('.offer[data-for=tasks]')";
        assert_eq!(browser.eval(&format!("{offer}.textContent")), "+1 new — show");
        browser.eval(&format!("{offer}.click()"));
        browser.until("document.querySelector('#tasks tr:last-child').innerText.includes('and 1 more')");
    })
    .await;
    drop(browser);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_page_changes_in_place_and_says_when_it_is_stale() {
    let backend: Arc<dyn Backend> = Memory::open().unwrap();
    fill(&backend).await;
    let site = Site::start(&backend).await;
    let address = site.address;
    let (browser, ()) = look(Browser::start(), move |browser| {
        browser.open(&format!("http://{address}"));
        browser.until("document.getElementById('status').dataset.state === 'live'");
        // A mark on what must stay the same element, and an open detail.
        browser.eval("document.querySelector('#dead tr').dataset.mark = 'mine'");
        browser.eval("document.querySelector('details').open = true");
    })
    .await;
    let client = Client::new(Arc::clone(&backend));
    client.enqueue(echo("one more")).await.unwrap();
    client.enqueue(Break { text: "again".into() }).await.unwrap();
    work(&backend, "default").await;
    let (browser, ()) = look(browser, |browser| {
        browser.until("document.getElementById('tiles').innerText.includes('28 in 1 h')");
        browser.until("document.title.startsWith('▲2')");
        // The new dead job is offered, not put in.
        browser.until("!document.querySelector('.offer[data-for=dead]').hidden");
        let rows = "document.querySelectorAll('#dead tr').length";
        assert_eq!(browser.eval(rows), 1);
        assert_eq!(browser.eval("document.querySelector('#dead tr').dataset.mark"), "mine");
        assert_eq!(browser.eval("document.querySelector('details').open"), true);
        assert_eq!(browser.eval("document.querySelector('.offer[data-for=dead]').textContent"), "+1 new — show");
        browser.eval("document.querySelector('.offer[data-for=dead]').click()");
        assert_eq!(browser.eval(rows), 2);
        // Hidden, it does not listen; seen again, it does.
        let hide = |hidden| {
            format!("Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }}); document.dispatchEvent(new Event('visibilitychange'))")
        };
        let state = |state| format!("document.getElementById('status').dataset.state === '{state}'");
        browser.eval(&hide(true));
        browser.until(&state("paused"));
        browser.eval(&hide(false));
        browser.until(&state("live"));
        assert_eq!(browser.complaints, [""; 0]);
    })
    .await;
    let address = site.address.to_string();
    site.stop().await;
    let (browser, ()) = look(browser, |browser| {
        browser.until("document.getElementById('status').dataset.state === 'stale'");
        assert_eq!(
            browser
                .eval("document.getElementById('status-text').textContent.startsWith('stale · no connection since')"),
            true
        );
    })
    .await;
    let site = Site::start_at(&backend, &address).await;
    let (browser, ()) = look(browser, |browser| {
        browser.until("document.getElementById('status').dataset.state === 'live'");
    })
    .await;
    drop(browser);
    site.stop().await;
}
