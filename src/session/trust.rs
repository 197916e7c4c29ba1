//! Which certificate authorities are trusted, for everything that leaves this machine.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio_rustls::{
    TlsConnector,
    rustls::{self, ClientConfig, RootCertStore, crypto::aws_lc_rs},
};

/// The largest bundle that is read, bytes: a hundred times what browsers trust.
const BUNDLE_LIMIT: u64 = 32 << 20;

/// Whom to trust.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// The roots of this machine, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
    #[default]
    Machine,
    /// The certificates in a file in PEM form, and nobody else: as the AWS CLI reads `AWS_CA_BUNDLE`.
    Bundle(PathBuf),
}

/// Why nobody can be trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The machine has no usable root.
    #[error("no trusted root certificate was found: {0}")]
    Machine(String),
    /// A bundle that cannot be read.
    #[error("the CA bundle {path} cannot be read")]
    Unreadable {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A bundle that holds nothing usable.
    #[error("the CA bundle {path} holds no usable certificate in PEM form")]
    Empty {
        /// The file.
        path: String,
    },
    /// The TLS library does not work.
    #[error("TLS cannot be set up")]
    Library(#[source] rustls::Error),
}

impl Trust {
    /// What `AWS_CA_BUNDLE` says, or this machine.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_bundle(std::env::var_os("AWS_CA_BUNDLE").map(PathBuf::from))
    }

    /// A bundle if one is named: an empty name is none.
    #[must_use]
    pub fn from_bundle(path: Option<PathBuf>) -> Self {
        path.filter(|path| !path.as_os_str().is_empty()).map_or(Self::Machine, Self::Bundle)
    }

    /// Reads what is trusted, and makes TLS of it. Reads files: a hundred and more certificates.
    ///
    /// # Errors
    /// When there is nobody to trust.
    pub(super) fn connector(&self) -> Result<TlsConnector, TrustError> {
        let roots = match self {
            Self::Machine => machine()?,
            Self::Bundle(path) => bundle(path)?,
        };
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TrustError::Library)?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

fn machine() -> Result<RootCertStore, TrustError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (valid, _) = roots.add_parsable_certificates(found.certs);
    if valid == 0 {
        let cause = found.errors.first().map_or_else(|| "the store is empty".to_owned(), ToString::to_string);
        return Err(TrustError::Machine(cause));
    }
    Ok(roots)
}

fn bundle(path: &Path) -> Result<RootCertStore, TrustError> {
    let shown = || path.display().to_string();
    let unreadable = |source| TrustError::Unreadable { path: shown(), source };
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > BUNDLE_LIMIT {
        return Err(unreadable(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large to be one")));
    }
    let text = std::fs::read(path).map_err(unreadable)?;
    let mut roots = RootCertStore::empty();
    // One that cannot be read, or is of a kind that is not known, does not spoil the others.
    let (valid, ignored) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).flatten());
    if valid == 0 {
        return Err(TrustError::Empty { path: shown() });
    }
    tracing::debug!(path = %path.display(), valid, ignored, "CA bundle");
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_without_a_certificate_names_its_path() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, content) in [
            ("empty", ""),
            ("text", "not a certificate"),
            ("key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
            ("broken", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            ("cut", "-----BEGIN CERTIFICATE-----\nAAAA\n"),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, content).expect("room");
            let error = Trust::Bundle(path.clone()).connector().err().expect("nobody to trust");
            assert!(matches!(error, TrustError::Empty { .. }), "{name}: {error:?}");
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
        for path in [folder.path().join("missing"), folder.path().to_owned()] {
            let error = Trust::Bundle(path.clone()).connector().err().expect("nothing to read");
            assert!(matches!(error, TrustError::Unreadable { .. }), "{error:?}");
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
    }

    #[test]
    fn an_empty_name_is_none() {
        assert_eq!(Trust::from_bundle(Some(PathBuf::new())), Trust::Machine);
        assert_eq!(Trust::from_bundle(Some("/a".into())), Trust::Bundle("/a".into()));
        assert_eq!(Trust::from_bundle(None), Trust::Machine);
    }

    #[cfg(feature = "emulator")]
    #[test]
    fn what_is_broken_in_a_bundle_does_not_spoil_the_rest() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bundle");
        let emulator = crate::emulator::Emulator::start(crate::emulator::EmulatorConfig {
            tls: true,
            ..crate::emulator::EmulatorConfig::default()
        })
        .expect("an emulator");
        let good = std::fs::read_to_string(emulator.ca_file().expect("it has one")).expect("readable");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, format!("# comment\n{broken}{good}")).expect("room");
        Trust::Bundle(path).connector().map(drop).expect("one to trust");
    }
}
