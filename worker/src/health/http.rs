//! The same over HTTP, for those who watch programs: `/live`, `/ready` and `/startup`, answered from the board
//! alone. Each connection is for one request.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use millhand_proto::limits;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::{Board, Health};

/// Bytes of a request's line and headers; less than this hyper does not take.
const HEAD: usize = 8 << 10;
/// The pause when no connection can be taken, as while files are scarce.
const SCARCE: Duration = Duration::from_millis(50);

/// Opens the socket and answers from then on, on the runtime of the caller, until that ends.
pub(crate) async fn answer_at(address: SocketAddr, board: &Board) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    board.answers_at(address);
    tracing::info!(%address, "answers /live, /ready and /startup");
    tokio::spawn(serve(listener, board.reader()));
    Ok(())
}

async fn serve(listener: TcpListener, health: Health) {
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be taken");
                sleep(SCARCE).await;
                continue;
            }
        };
        connections.retain(|connection| !connection.is_finished());
        // Who asks and reads is long gone when so many others have come: those who only hold a connection keep
        // nobody out.
        if connections.len() >= limits::HEALTH_CONNECTIONS
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        connections.push_back(tokio::spawn(attend(stream, health.clone())).abort_handle());
    }
}

/// One connection, to its end.
async fn attend(stream: TcpStream, health: Health) {
    let asked = service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(&request, &health))));
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), asked);
    // A request and its answer fit into a packet each.
    match timeout(limits::HEALTH_CONNECTION, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection ended early"),
        Err(_) => tracing::debug!("a connection took too long"),
    }
}

fn answer(request: &Request<Incoming>, health: &Health) -> Response<String> {
    let reasons = match request.uri().path() {
        "/live" => Vec::from_iter(health.hangs()),
        "/ready" => health.now().not_ready,
        "/startup" if health.0.borrow().was_ready => Vec::new(),
        "/startup" => health.now().not_ready,
        _ => {
            return said(
                StatusCode::NOT_FOUND,
                &["there is /live, /ready and /startup".to_owned()],
            );
        }
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = said(StatusCode::METHOD_NOT_ALLOWED, &["GET it".to_owned()]);
        refused
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let status = match reasons.as_slice() {
        [] => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    said(status, &reasons)
}

fn said(status: StatusCode, reasons: &[String]) -> Response<String> {
    let body = serde_json::json!({ "ok": status.is_success(), "reasons": reasons });
    let mut response = Response::new(format!("{body}\n"));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
