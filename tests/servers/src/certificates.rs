//! Certificates of a test's own.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use tempfile::TempDir;

/// An authority, and the files of what it signs: `ca.pem`, and `NAME.pem` with `NAME.key`. They go
/// with this value.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// When a certificate ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// Not while anybody tests.
    Late,
    /// It has ended already.
    Ago,
}

impl Authority {
    /// Makes one.
    ///
    /// # Panics
    ///
    /// When its files cannot be written.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("millhand-authority-").tempdir();
        let folder = folder.expect("a temporary folder");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "millhand tests");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("the authority's file");
        Self {
            issuer: Issuer::new(params, key),
            folder,
        }
    }

    /// Signs a certificate for these host names and addresses, for servers and clients alike, and
    /// writes it with its key. One of the same name is replaced.
    ///
    /// # Panics
    ///
    /// When its files cannot be written.
    pub fn sign(&self, name: &str, hosts: &[&str], ends: Ends) {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("host names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(2020, 1, 1);
        if ends == Ends::Ago {
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        fs::write(self.certificate(name), certificate.pem()).expect("a certificate's file");
        fs::write(self.key(name), key.serialize_pem()).expect("a key's file");
    }

    /// Where all the files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file of the authority's own certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder().join("ca.pem")
    }

    /// The file of a certificate that was signed.
    #[must_use]
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.folder().join(format!("{name}.pem"))
    }

    /// The file of its key.
    #[must_use]
    pub fn key(&self, name: &str) -> PathBuf {
        self.folder().join(format!("{name}.key"))
    }

    /// The parameters of a URL that name the authority and a certificate of ours.
    #[must_use]
    pub fn parameters(&self, name: &str) -> String {
        let [ca, cert, key] =
            [self.ca(), self.certificate(name), self.key(name)].map(|path| path.display().to_string());
        format!("ca={ca}&cert={cert}&key={key}")
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
