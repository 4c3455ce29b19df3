//! What every request meets first, and what every answer carries.
//!
//! There is no sign-in: who can open a connection to this machine's own address may read. So a web
//! page from elsewhere must not be able to read through the reader's browser, under whatever name
//! it reaches this address.

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, HOST, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::pages::{Message, Site};

/// On every answer. Scripts and styles come from here as files, and nothing comes from elsewhere.
const HEADERS: [(&str, &str); 7] = [
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; \
         base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("x-frame-options", "DENY"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
];

/// The names under which this address is reached; none else is answered.
#[derive(Clone, Debug)]
pub(crate) struct Hosts(Vec<String>);

impl Hosts {
    pub(crate) fn of(address: SocketAddr) -> Self {
        let port = address.port();
        let names = ["localhost".to_owned(), "127.0.0.1".into(), "[::1]".into()];
        let own = match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let names = names.into_iter().chain([own]);
        // Browsers leave out the port of the web.
        let as_named = |name: String| [Some(format!("{name}:{port}")), (port == 80).then_some(name)];
        Self(names.flat_map(as_named).flatten().collect())
    }

    fn know(&self, host: &str) -> bool {
        self.0.iter().any(|own| own.eq_ignore_ascii_case(host))
    }

    /// Whether a request is meant for this address: exactly one host, and one of ours.
    fn meant(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let mut named = headers.get_all(HOST).iter();
        let host = named.next().and_then(|host| host.to_str().ok());
        let whole = uri.authority().is_none_or(|authority| self.know(authority.as_str()));
        whole && named.next().is_none() && host.is_some_and(|host| self.know(host))
    }
}

/// Looks at a request before anything else does.
pub(crate) async fn guard(State(site): State<Site>, request: Request, next: Next) -> Response {
    let mut response = if !site.hosts.meant(request.uri(), request.headers()) {
        let message = "This address is answered only as localhost, 127.0.0.1 or [::1], with its port.";
        (StatusCode::MISDIRECTED_REQUEST, message).into_response()
    } else if ![Method::GET, Method::HEAD].contains(request.method()) {
        let message = Message::new("Not allowed", "This dashboard only shows: it takes GET and HEAD.");
        let mut response = message.answer(StatusCode::METHOD_NOT_ALLOWED);
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        response
    } else {
        // What a GET brings along is of no interest, and is not read.
        next.run(request.map(|_| Body::empty())).await
    };
    for (name, value) in HEADERS {
        let name = HeaderName::from_static(name);
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether a browser says that another site asks.
pub(crate) fn is_foreign(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    !matches!(site, None | Some(b"same-origin" | b"none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_known() {
        let hosts = Hosts::of("127.0.0.1:7700".parse().unwrap());
        let meant = |uri: &str, names: &[&str]| {
            let mut headers = HeaderMap::new();
            for name in names {
                headers.append(HOST, name.parse().unwrap());
            }
            hosts.meant(&uri.parse().unwrap(), &headers)
        };
        for good in ["localhost:7700", "LocalHost:7700", "127.0.0.1:7700", "[::1]:7700"] {
            assert!(meant("/", &[good]), "{good}");
        }
        for bad in [
            "evil.example:7700",
            "localhost",
            "localhost:7701",
            "localhost.evil.example:7700",
            "127.0.0.2:7700",
            "",
        ] {
            assert!(!meant("/", &[bad]), "{bad}");
        }
        assert!(!meant("/", &[]));
        assert!(!meant("/", &["localhost:7700", "evil.example"]));
        assert!(!meant("http://evil.example/", &["localhost:7700"]));
        for (own, name) in [("127.0.0.5:80", "127.0.0.5"), ("[::1]:80", "[::1]")] {
            let hosts = Hosts::of(own.parse().unwrap());
            for good in [own, name, "localhost", "localhost:80"] {
                assert!(hosts.know(good), "{own} as {good}");
            }
            assert!(!hosts.know("127.0.0.6") && !hosts.know("127.0.0.5:81"));
        }
        assert!(!Hosts::of("127.0.0.5:7700".parse().unwrap()).know("127.0.0.5"));
    }
}
