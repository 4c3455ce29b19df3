//! The pages: which address shows what.

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderMap};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use millhand_proto::{JobId, limits};
use serde::Deserialize;

use crate::figures::{Figures, Trouble};
use crate::guard::{self, Hosts};
use crate::job::Job;
use crate::live::Live;
use crate::overview::{Parts, Plot, queued_head};
use crate::range::Range;
use crate::say;

/// What all pages share.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) figures: Arc<Figures>,
    pub(crate) live: Arc<Live>,
    pub(crate) hosts: Arc<Hosts>,
}

/// All addresses, behind the guard.
pub(crate) fn router(site: Site) -> Router {
    Router::new()
        .route("/", get(overview))
        .route("/jobs", get(find))
        .route("/jobs/{id}", get(job))
        .route("/live", get(live))
        .route(
            "/assets/style.css",
            get(|| asset("text/css", include_str!("../assets/style.css"))),
        )
        .route(
            "/assets/live.js",
            get(|| asset("text/javascript", include_str!("../assets/live.js"))),
        )
        .fallback(nowhere)
        .layer(axum::middleware::from_fn_with_state(site.clone(), guard::guard))
        .with_state(site)
}

async fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(CONTENT_TYPE, format!("{kind}; charset=utf-8"))], text)
}

/// The frame around every page.
#[derive(Template)]
#[template(path = "page.html")]
struct Page<'p> {
    title: &'p str,
    /// How many problems the title counts.
    problems: usize,
    place: Option<&'p str>,
    /// When it was read.
    at: Option<String>,
    /// The range, on pages that change in place.
    live: Option<Range>,
    body: String,
}

fn page(status: StatusCode, page: &Page<'_>) -> Response {
    match page.render() {
        Ok(html) => (status, Html(html)).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// A page that says why it shows nothing else.
#[derive(Template)]
#[template(path = "message.html")]
pub(crate) struct Message {
    title: &'static str,
    text: String,
    hints: Vec<String>,
    /// What was looked for.
    looked_for: Option<String>,
}

impl Message {
    pub(crate) fn new(title: &'static str, text: impl Into<String>) -> Self {
        Self {
            title,
            text: text.into(),
            hints: Vec::new(),
            looked_for: None,
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    fn looked_for(mut self, text: impl Into<String>) -> Self {
        self.looked_for = Some(text.into());
        self
    }

    pub(crate) fn answer(&self, status: StatusCode) -> Response {
        page(
            status,
            &Page {
                title: self.title,
                problems: 0,
                place: None,
                at: None,
                live: None,
                body: self.render().unwrap_or_default(),
            },
        )
    }
}

impl Trouble {
    fn answer(&self) -> Response {
        Message::new("No figures", self.to_string())
            .hint("Jobs that were accepted are safe: workers go on as soon as it answers.")
            .hint("Load this page again to ask once more.")
            .answer(StatusCode::SERVICE_UNAVAILABLE)
    }
}

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview<'m> {
    range: Range,
    queued: &'static str,
    parts: &'m Parts,
}

type Asked<T> = Result<Query<T>, QueryRejection>;

#[derive(Debug, Deserialize)]
struct Look {
    range: Option<String>,
}

impl Look {
    /// The range that was asked for, or why there is none.
    fn range(&self) -> Result<Range, Message> {
        match self.range.as_deref() {
            None => Ok(Range::default()),
            Some(word) => Range::of(word).ok_or_else(|| {
                let words = Range::ALL.map(Range::word).join(", ");
                Message::new("Unknown range", format!("The range is none of {words}."))
            }),
        }
    }
}

/// A query that cannot be read.
fn unreadable() -> Response {
    Message::new("Unreadable address", "What stands after the ? cannot be read.").answer(StatusCode::BAD_REQUEST)
}

async fn overview(State(site): State<Site>, look: Asked<Look>) -> Response {
    let Ok(Query(look)) = look else { return unreadable() };
    let range = match look.range() {
        Ok(range) => range,
        Err(message) => return message.answer(StatusCode::BAD_REQUEST),
    };
    match site.figures.moment().await {
        Err(trouble) => trouble.answer(),
        Ok(moment) => {
            let parts = moment.parts(range);
            let queued = queued_head(moment.counts);
            let body = Overview {
                range,
                queued,
                parts: &parts,
            };
            page(
                StatusCode::OK,
                &Page {
                    title: "Overview",
                    problems: parts.problems,
                    place: Some(&moment.place),
                    at: Some(say::clock(moment.at)),
                    live: Some(range),
                    body: body.render().unwrap_or_default(),
                },
            )
        }
    }
}

async fn live(State(site): State<Site>, headers: HeaderMap, look: Asked<Look>) -> Response {
    if guard::is_foreign(&headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let Ok(Ok(range)) = look.map(|Query(look)| look.range()) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    site.live.listen(range).unwrap_or_else(|| {
        let message = "Too many pages listen; this one stays as it is until it is loaded again.";
        (StatusCode::SERVICE_UNAVAILABLE, message).into_response()
    })
}

#[derive(Debug, Deserialize)]
struct Find {
    id: Option<String>,
}

/// Leads from what was typed to the job's page.
async fn find(find: Asked<Find>) -> Response {
    let Ok(Query(Find { id })) = find else {
        return unreadable();
    };
    let id = id.unwrap_or_default();
    let id = id.trim();
    if id.is_empty() {
        return Message::new(
            "Which job?",
            "Give a job's id: it was printed when the job was enqueued.",
        )
        .answer(StatusCode::BAD_REQUEST);
    }
    if id.len() > 256 || id.chars().any(char::is_control) {
        return malformed(id);
    }
    // Any text may be given as an id when a job is enqueued; it stands for one.
    Redirect::to(&format!("/jobs/{}", JobId::given(id))).into_response()
}

fn malformed(id: &str) -> Response {
    Message::new(
        "Not an id",
        "A job's id is a UUID, such as 01992b1c-4d5e-8000-8000-0123456789ab.",
    )
    .hint("A job that was enqueued under a text of your own is found by the search above.")
    .looked_for(millhand_proto::words::clean(
        &id.chars().take(100).collect::<String>(),
        false,
    ))
    .answer(StatusCode::BAD_REQUEST)
}

async fn job(State(site): State<Site>, Path(text): Path<String>) -> Response {
    let Ok(id) = text.parse::<uuid::Uuid>() else {
        return malformed(&text);
    };
    let id = JobId::from(id);
    match site.figures.job(id).await {
        Err(trouble) => trouble.answer(),
        Ok((None, _)) => Message::new("Unknown job", "Nothing is known of a job with this id.")
            .hint(format!(
                "It may have been forgotten: a succeeded job is remembered for {}, any other for {} after its end.",
                say::days(limits::KEEP_SUCCEEDED),
                say::days(limits::KEEP_OTHERS)
            ))
            .hint("It may have been dropped by an operator, or never have been enqueued here.")
            .hint("Where queue and store are two servers, a job may be waiting in the queue although the store has lost its memory of it; it will run.")
            .looked_for(id.to_string())
            .answer(StatusCode::NOT_FOUND),
        Ok((Some((view, beside)), now)) => {
            let job = Job::of(&view, &beside, now);
            let title = format!("{} {}", view.entry.state, view.entry.task);
            let place = site.figures.place();
            page(
                StatusCode::OK,
                &Page {
                    title: &title,
                    problems: 0,
                    place: Some(&place),
                    at: Some(say::clock(now)),
                    live: None,
                    body: job.render().unwrap_or_default(),
                },
            )
        }
    }
}

async fn nowhere() -> Response {
    Message::new("No such page", "There is nothing at this address.").answer(StatusCode::NOT_FOUND)
}
