//! A certificate authority made for one emulator, and a server certificate for loopback.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls_pki_types::PrivateKeyDer;
use tokio_rustls::{TlsAcceptor, rustls};

use super::clock::{self, Moment};

/// Names and addresses that the certificate is good for.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The authority's certificate in a file, for clients to trust; removed on drop.
#[derive(Debug)]
pub(super) struct AuthorityFile {
    folder: PathBuf,
    file: PathBuf,
}

impl AuthorityFile {
    pub(super) fn path(&self) -> &Path {
        &self.file
    }

    /// A folder that only we can write to, so that nobody else can plant a certificate.
    fn create(pem: &str) -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("ssmfwd-emulator-{}", uuid::Uuid::new_v4()));
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&folder)?;
        let file = folder.join("ca.pem");
        let this = Self { folder, file };
        fs::File::create_new(&this.file)?.write_all(pem.as_bytes())?;
        Ok(this)
    }
}

impl Drop for AuthorityFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.file).and_then(|()| fs::remove_dir(&self.folder)) {
            tracing::warn!(%error, folder = %self.folder.display(), "temporary folder stays behind");
        }
    }
}

/// Makes an authority and a server that it vouches for.
///
/// # Errors
/// When the certificate cannot be made or its file not be written.
pub(super) fn authority() -> io::Result<(TlsAcceptor, AuthorityFile)> {
    let (chain, key, pem) = certificates().map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), AuthorityFile::create(&pem)?))
}

type Certificates = (Vec<rustls_pki_types::CertificateDer<'static>>, PrivateKeyDer<'static>, String);

fn certificates() -> Result<Certificates, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::CommonName, "ssmfwd emulator");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    limit_validity(&mut params);
    let key = KeyPair::generate()?;
    let authority = params.self_signed(&key)?;
    let issuer = Issuer::new(params, key);

    let mut params = CertificateParams::new(NAMES.map(String::from).to_vec())?;
    params.distinguished_name.push(DnType::CommonName, "localhost");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    limit_validity(&mut params);
    let key = KeyPair::generate()?;
    let server = params.signed_by(&key, &issuer)?;
    let chain = vec![server.der().clone(), authority.der().clone()];
    Ok((chain, PrivateKeyDer::Pkcs8(key.serialize_der().into()), authority.pem()))
}

/// From yesterday, against clocks that differ, for two weeks: long-lived certificates are refused by some clients.
fn limit_validity(params: &mut CertificateParams) {
    const DAY: i64 = 86_400;
    let today = i64::try_from(clock::epoch().as_secs()).unwrap_or(0);
    let date = |moment: Moment| {
        let (year, month, day) = moment.date();
        date_time_ymd(year, month, day)
    };
    params.not_before = date(Moment(today - DAY));
    params.not_after = date(Moment(today + 14 * DAY));
}
