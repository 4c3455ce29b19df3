//! TLS to a server: who is trusted, and who we are, from files that the URL names.
//!
//! The client libraries get streams on which TLS has begun: neither is built with TLS of its own, so
//! there is one place that decides what is trusted, and none where a connection could stay plain.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, InvalidMessage, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long the connection and its handshake may take. It is less than what the whole making of a
/// connection may take, so that this reason is told.
const HANDSHAKE: Duration = Duration::from_millis(2_500);

/// A connection on which TLS has begun.
pub(crate) type Stream = tokio_rustls::client::TlsStream<TcpStream>;

/// The parameters `ca`, `cert` and `key` of a URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Who is trusted; without it whom the system trusts.
    pub(crate) ca: Option<PathBuf>,
    /// Our certificate and its key, where the server wants them.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// Whether the files are there and fit together, in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.config().map(drop)
    }

    /// Connects, and begins TLS. The files are read now, so that renewed ones are used without a
    /// restart.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> io::Result<Stream> {
        let tls = self.clone();
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| io::Error::other(format!("{host:?} is no name that a certificate can have")))?;
        let connected = async {
            // Not on this thread: the folder may be on a network that hangs.
            let config = tokio::task::spawn_blocking(move || tls.config()).await?;
            let connector = TlsConnector::from(Arc::new(config.map_err(io::Error::other)?));
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            let begun = connector.connect(name, stream).await;
            begun.map_err(|error| io::Error::other(self.told(host, &error)))
        };
        let late = || {
            io::Error::new(
                io::ErrorKind::TimedOut,
                "no TLS connection within 2.5 s: is TLS spoken at its port?",
            )
        };
        timeout(HANDSHAKE, connected).await.unwrap_or_else(|_| Err(late()))
    }

    fn config(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(self.roots()?);
        let Some((cert, key)) = &self.identity else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = certificates("cert", cert)?;
        // What the parser says of a key's file may hold a line of it.
        let private = PrivateKeyDer::from_pem_slice(&read("key", key)?)
            .map_err(|_| format!("key={key:?} holds no private key in PEM that is not encrypted"))?;
        let fits = builder.with_client_auth_cert(chain, private);
        fits.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                format!("key={key:?} is not the key of the certificate in cert={cert:?}")
            }
            error => format!("cert={cert:?} and key={key:?} cannot be used: {error}"),
        })
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        let Some(ca) = &self.ca else {
            let found = rustls_native_certs::load_native_certs();
            return match roots.add_parsable_certificates(found.certs) {
                (0, _) => Err("this system has no certificates of authorities; name whom to trust: ca=FILE".into()),
                _ => Ok(roots),
            };
        };
        for certificate in certificates("ca", ca)? {
            let added = roots.add(certificate);
            added.map_err(|error| format!("ca={ca:?} holds a certificate that cannot be used: {error}"))?;
        }
        Ok(roots)
    }

    /// Why there is no TLS, in words.
    fn told(&self, host: &str, error: &io::Error) -> String {
        let Some(of_tls) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) else {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                    format!("it ended the connection while TLS began ({error}): is TLS spoken at its port?")
                }
                _ => error.to_string(),
            };
        };
        match of_tls {
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
                "it does not speak TLS at this port: is this its port for TLS?".into()
            }
            // An authority may have another key and the name of one that is trusted.
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                match &self.ca {
                    Some(ca) => format!("its certificate comes from none of those in ca={ca:?}"),
                    None => {
                        "its certificate comes from nobody whom this system trusts; name whom to trust: ca=FILE".into()
                    }
                }
            }
            rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => format!("its certificate is not for {host:?}: {of_tls}"),
            rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
                "its certificate has expired".into()
            }
            rustls::Error::AlertReceived(alert) if concerns(*alert) => format!("{of_tls}: {}", self.hint()),
            _ => of_tls.to_string(),
        }
    }

    /// What may be the matter when a server ends a connection as soon as TLS has begun: it looks at
    /// our certificate when we already think all is well.
    pub(crate) fn hint(&self) -> String {
        match &self.identity {
            Some((cert, _)) => format!("it may not accept the certificate in cert={cert:?}"),
            None => "it may want a certificate of ours: cert=FILE&key=FILE".into(),
        }
    }
}

/// Whether this alert may be about our certificate.
fn concerns(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::HandshakeFailure
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
    )
}

/// Whether a connection on which TLS had begun was ended by the server.
pub(crate) fn is_ended(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, InvalidData, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | InvalidData | UnexpectedEof
    )
}

fn read(name: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{name}={path:?} cannot be read: {error}"))
}

fn certificates(name: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = read(name, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        // What the parser says may hold a line of the file, and that may be a key.
        _ => Err(format!("{name}={path:?} holds no certificate in PEM")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use millhand_servers::{Authority, Ends};

    use super::*;

    #[test]
    fn files_that_cannot_be_used_are_named_and_nothing_of_a_key_is_told() {
        let authority = Authority::new();
        authority.sign("a", &[], Ends::Late);
        authority.sign("b", &[], Ends::Late);
        let (ca, cert, key) = (authority.ca(), authority.certificate("a"), authority.key("a"));
        let written = |name: &str, text: &str| {
            let path = authority.folder().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let broken = written("broken", "-----BEGIN canary PRIVATE KEY-----\ncanary!\n-----END canary");
        let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nY2FuYXJ5\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let locked = written("locked", locked);
        let empty = written("empty", "");
        let odd = written(
            "odd",
            "-----BEGIN CERTIFICATE-----\nY2FuYXJ5\n-----END CERTIFICATE-----\n",
        );
        let missing = authority.folder().join("missing");
        let check = |ca: Option<&Path>, identity: Option<(&Path, &Path)>| {
            let identity = identity.map(|(cert, key)| (cert.to_owned(), key.to_owned()));
            let ca = ca.map(Path::to_owned);
            Tls { ca, identity }.check()
        };
        assert_eq!(check(Some(&ca), Some((&cert, &key))), Ok(()));
        for (ca, identity, says) in [
            (&missing, None, "ca="),
            (&empty, None, "ca="),
            (&broken, None, "holds no certificate"),
            (&odd, None, "cannot be used"),
            (&key, None, "holds no certificate"),
            (&ca, Some((&missing, &key)), "cert="),
            (&ca, Some((&empty, &key)), "holds no certificate"),
            (&ca, Some((&cert, &missing)), "key="),
            (&ca, Some((&cert, &broken)), "holds no private key"),
            (&ca, Some((&cert, &locked)), "holds no private key"),
            (&ca, Some((&cert, &cert)), "holds no private key"),
            (
                &ca,
                Some((&cert, &authority.key("b"))),
                "is not the key of the certificate in cert=",
            ),
        ] {
            let said = check(Some(ca), identity.map(|(cert, key)| (cert.as_path(), key.as_path()))).unwrap_err();
            let wrong = [Some(ca), identity.map(|i| i.0), identity.map(|i| i.1)];
            let named = wrong
                .into_iter()
                .flatten()
                .any(|path| said.contains(&format!("={path:?}")));
            assert!(said.contains(says) && named, "{said}");
            assert!(!said.contains("canary") && !said.contains("Y2FuYXJ5"), "{said}");
        }
    }
}
