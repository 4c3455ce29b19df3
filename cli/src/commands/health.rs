//! `millhand worker health`: for images in which nothing else speaks HTTP.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::args::{Format, Global, Health, HealthArgs};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Ui, clean};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer; what is longer is no worker's.
const LONGEST: u64 = 64 << 10;

/// What a worker answers.
#[derive(Serialize, Deserialize)]
struct Answer {
    #[serde(default)]
    schema: String,
    ok: bool,
    reasons: Vec<String>,
}

pub(super) async fn run(args: &HealthArgs, global: &Global, ui: &Ui) -> Outcome {
    let at = match args.at {
        Some(at) => at,
        None => super::settings(global)?.worker.health.ok_or_else(|| {
            Failure::usage("it is not known where the worker answers")
                .hint("name it with --at, or with health of [worker] in the settings")
        })?,
    };
    if at.port() == 0 {
        return Err(Failure::usage(format!(
            "the worker at {at} has a port that is not known before it starts"
        ))
        .hint("its log says which it took: name that with --at"));
    }
    let (path, well, ill) = match args.what {
        Health::Live => ("/live", "live", "not_live"),
        Health::Ready => ("/ready", "ready", "not_ready"),
        Health::Startup => ("/startup", "was ready", "not_started"),
    };
    let unreachable = |error: io::Error| {
        Failure::new(
            Exit::Unreachable,
            "worker_unreachable",
            format!("the worker at {at}: {error}"),
        )
    };
    let asked = timeout(PATIENCE, ask(at, path)).await;
    let mut answer = asked
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(unreachable)?;
    answer.schema = "millhand.worker.health/1".to_owned();
    match ui.format {
        Format::Text if answer.ok => ui.note(well),
        Format::Text => {
            return Err(Failure::new(
                Exit::Failed,
                ill,
                clean(&answer.reasons.join("; "), false),
            ));
        }
        Format::Json => ui.document(&answer)?,
        Format::Jsonl => ui.lines(&[&answer])?,
    }
    Ok(if answer.ok { Exit::Done } else { Exit::Failed })
}

async fn ask(at: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(at).await?;
    // The answer to HTTP/1.0 ends with the connection.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {at}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer).await?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no worker of Millhand"))
}
