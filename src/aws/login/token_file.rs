//! The file that a token is kept in, where and how the AWS CLI v2 and the SDKs read it
//! (`proto-notes/login.md#the-token-file`).

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use aws_smithy_types::{DateTime, date_time::Format};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Center, LoginError, Token, secret::Secret, token::Registration};
use crate::aws::private_file;

/// Largest file that is read as a token, bytes: tokens have a few KiB.
const SIZE_MAX: u64 = 1 << 20;

/// Where the token of a session is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenFile(PathBuf);

/// What is written. Keys in the order of the AWS CLI.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    start_url: &'a str,
    region: &'a str,
    access_token: &'a str,
    expires_at: String,
    #[serde(flatten)]
    registration: Option<WrittenRegistration<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenRegistration<'a> {
    client_id: &'a str,
    client_secret: &'a str,
    registration_expires_at: String,
}

impl<'a> WrittenRegistration<'a> {
    fn of(client: &'a Registration) -> io::Result<Self> {
        Ok(Self {
            client_id: &client.client_id,
            client_secret: client.client_secret.expose(),
            registration_expires_at: to_text(client.expires_at)?,
        })
    }
}

/// What is read: others may leave out what is not needed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Contents {
    start_url: Option<String>,
    region: Option<String>,
    access_token: String,
    expires_at: String,
    client_id: Option<String>,
    client_secret: Option<String>,
    registration_expires_at: Option<String>,
    refresh_token: Option<String>,
}

impl TokenFile {
    /// The file of a session, whether it is there or not.
    ///
    /// # Errors
    /// [`NoHome`](LoginError::NoHome).
    pub(crate) fn of(center: &Center) -> Result<Self, LoginError> {
        Ok(Self::below(&private_file::home().ok_or(LoginError::NoHome)?, center))
    }

    fn below(home: &Path, center: &Center) -> Self {
        let key = center.session.as_ref().unwrap_or(&center.start_url);
        Self(home.join(".aws").join("sso").join("cache").join(private_file::name(key)))
    }

    /// The token, if there is a file with one. What cannot be read is no token: a login replaces it.
    pub(crate) fn read(&self) -> Option<Token> {
        let read = || -> io::Result<Token> {
            let text = private_file::read(&self.0, SIZE_MAX)?;
            // What serde says of a broken file could quote it.
            let contents: Contents = serde_json::from_slice(&text).map_err(|_| io::ErrorKind::InvalidData)?;
            contents.into_token().ok_or_else(|| io::ErrorKind::InvalidData.into())
        };
        match read() {
            Ok(token) => Some(token),
            Err(error) => {
                tracing::debug!(file = %self.0.display(), error = %error.kind(), "no token");
                None
            }
        }
    }

    /// Writes a token. Others see the old file or the new one, and nobody but the user sees either.
    ///
    /// # Errors
    /// [`File`](LoginError::File).
    pub(crate) fn write(&self, token: &Token) -> Result<(), LoginError> {
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| LoginError::File { doing, path, source }
        };
        let folder = self.0.parent().unwrap_or_else(|| Path::new("."));
        private_file::make_folder(folder).map_err(failed("make the folder", folder))?;
        encode(token).and_then(|text| private_file::replace(&self.0, &text)).map_err(failed("write", &self.0))
    }

    /// The path, for people.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

/// The file's text.
fn encode(token: &Token) -> io::Result<Zeroizing<Vec<u8>>> {
    let written = Written {
        start_url: &token.start_url,
        region: &token.region,
        access_token: token.access_token.expose(),
        expires_at: to_text(token.expires_at)?,
        registration: token.registration.as_ref().map(WrittenRegistration::of).transpose()?,
        refresh_token: token.refresh_token.as_ref().map(Secret::expose),
    };
    // Room for all of it: what a growing buffer leaves behind is not wiped.
    let mut text = Zeroizing::new(Vec::with_capacity(64 << 10));
    serde_json::to_writer_pretty(&mut *text, &written)?;
    Ok(text)
}

impl Contents {
    fn into_token(self) -> Option<Token> {
        let access_token = Secret::new(self.access_token);
        let (refresh_token, client_secret) = (self.refresh_token.map(Secret::new), self.client_secret.map(Secret::new));
        let registration = match (self.client_id, client_secret, self.registration_expires_at) {
            (Some(client_id), Some(client_secret), Some(expires_at)) => {
                Some(Registration { client_id, client_secret, expires_at: private_file::time(&expires_at)? })
            }
            _ => None,
        };
        Some(Token {
            access_token,
            expires_at: private_file::time(&self.expires_at)?,
            refresh_token,
            registration,
            region: self.region.unwrap_or_default(),
            start_url: self.start_url.unwrap_or_default(),
        })
    }
}

/// RFC 3339 in whole seconds and with `Z`: some readers take nothing else.
fn to_text(time: SystemTime) -> io::Result<String> {
    DateTime::from_secs(DateTime::from(time).secs()).fmt(Format::DateTime).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    fn token() -> Token {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        Token {
            access_token: Secret::new("ACCESS"),
            expires_at: at(1_700_000_000) + Duration::from_millis(5),
            refresh_token: Some(Secret::new("REFRESH")),
            registration: Some(Registration {
                client_id: "client".to_owned(),
                client_secret: Secret::new("CLIENT-SECRET"),
                expires_at: at(1_707_776_000),
            }),
            region: "eu-west-1".to_owned(),
            start_url: "https://d-0123456789.awsapps.com/start".to_owned(),
        }
    }

    #[test]
    fn files_are_named_as_the_sdk_names_them() {
        for (session, name) in [
            (Some("my"), "3ece1471f44f63177cbc35ba0b904e0c096b6783"),
            (None, "aa477cedd4b2708a54ce60d7ae5a3b7f986013da"),
        ] {
            let file = TokenFile::below(Path::new("/h"), &Center::for_test(session));
            assert_eq!(file.path(), Path::new(&format!("/h/.aws/sso/cache/{name}.json")));
        }
    }

    #[test]
    fn a_token_is_written_as_the_aws_cli_writes_it() {
        let home = tempfile::tempdir().expect("a folder");
        let file = TokenFile::below(home.path(), &Center::for_test(Some("my")));
        assert_eq!(file.read(), None);
        file.write(&token()).expect("written");
        let text = fs::read_to_string(file.path()).expect("a file");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            value,
            serde_json::json!({
                "startUrl": "https://d-0123456789.awsapps.com/start", "region": "eu-west-1",
                "accessToken": "ACCESS", "expiresAt": "2023-11-14T22:13:20Z", "clientId": "client",
                "clientSecret": "CLIENT-SECRET", "registrationExpiresAt": "2024-02-12T22:13:20Z",
                "refreshToken": "REFRESH",
            })
        );
        let read = file.read().expect("a token");
        assert_eq!(read, Token { expires_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000), ..token() });
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
            assert_eq!((mode(file.path()), mode(file.path().parent().expect("a folder"))), (0o600, 0o700));
        }
        let beside = fs::read_dir(file.path().parent().expect("a folder")).expect("a folder").count();
        assert_eq!(beside, 1);
    }

    #[test]
    fn what_others_write_is_read_and_nonsense_is_none() {
        let home = tempfile::tempdir().expect("a folder");
        let file = TokenFile::below(home.path(), &Center::for_test(None));
        file.write(&token()).expect("written");
        for (text, valid) in [
            (r#"{"accessToken":"T","expiresAt":"2023-11-14T22:13:20UTC","surprise":1}"#, true),
            (r#"{"accessToken":"T","expiresAt":"2023-11-14T22:13:20+00:00"}"#, true),
            (r#"{"accessToken":"T","expiresAt":"soon"}"#, false),
            (r#"{"expiresAt":"2023-11-14T22:13:20Z"}"#, false),
            ("", false),
            ("[]", false),
        ] {
            fs::write(file.path(), text).expect("written");
            assert_eq!(file.read().is_some(), valid, "{text}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let shown = format!("{:?}", token());
        for secret in ["ACCESS", "REFRESH", "CLIENT-SECRET"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let home = tempfile::tempdir().expect("a folder");
        fs::write(home.path().join(".aws"), "a file").expect("written");
        let error = TokenFile::below(home.path(), &Center::for_test(None)).write(&token()).expect_err("not a folder");
        assert!(error.to_string().starts_with("cannot make the folder "), "{error}");
    }
}
