//! The AWS CLI's cache of assumed roles, `~/.aws/cli/cache`: who gave a code there is not asked again here, and the
//! other way round.
//!
//! A file is the answer of AssumeRole as JSON, named after what was asked for; not after who asked. Only roles with an
//! MFA device are read and written here: the others cost nobody anything.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use aws_credential_types::Credentials;
use aws_smithy_types::{DateTime, date_time::Format};
use serde_json::{Value, json};

use super::chain::Link;
use crate::aws::private_file;

/// Credentials that expire sooner are not taken from a file: a code that is asked for at the start is better than one
/// under a tunnel.
pub(super) const MIN_LEFT: Duration = Duration::from_secs(5 * 60);

/// A file that is larger was not written by anything that writes these.
const MAX_FILE: u64 = 64 << 10;

/// The folder of the AWS CLI; it does not depend on where the configuration files are.
pub(super) fn folder() -> Option<PathBuf> {
    Some(private_file::home()?.join(".aws").join("cli").join("cache"))
}

/// The name of the file of a role: the SHA-1 of the arguments as Python writes them. A session name that was made up is
/// not part of it.
fn file_name(link: &Link) -> String {
    let texts = [
        ("ExternalId", &link.external_id),
        ("RoleArn", &Some(link.role_arn.clone())),
        ("RoleSessionName", &link.session_name),
        ("SerialNumber", &link.mfa_serial),
    ];
    let duration = link.duration.map(|seconds| format!("\"DurationSeconds\": {seconds}"));
    let texts = texts.into_iter().filter_map(|(name, text)| Some(format!("\"{name}\": {}", quoted(text.as_ref()?))));
    let arguments = format!("{{{}}}", duration.into_iter().chain(texts).collect::<Vec<_>>().join(", "));
    private_file::name(&arguments)
}

/// A text as Python's `json.dumps` writes it: in ASCII.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            ' '..='~' => quoted.push(char),
            _ => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    write!(quoted, "\\u{unit:04x}").ok();
                }
            }
        }
    }
    quoted + "\""
}

/// The credentials of a role, if they are there and last for a while after `now`.
pub(super) fn read(folder: &Path, link: &Link, now: SystemTime) -> Option<Credentials> {
    let path = folder.join(file_name(link));
    let answer: Value = serde_json::from_slice(&private_file::read(&path, MAX_FILE).ok()?).ok()?;
    let text = |name: &str| answer["Credentials"][name].as_str().map(str::to_owned);
    let expiry = private_file::time(&text("Expiration")?)?;
    let credentials = Credentials::new(
        text("AccessKeyId")?,
        text("SecretAccessKey")?,
        text("SessionToken"),
        Some(expiry),
        "AssumeRole",
    );
    (now + MIN_LEFT < expiry).then_some(credentials)
}

/// Keeps the credentials of a role, for the user alone. `assumed` is the id and the ARN of the session.
pub(super) fn write(folder: &Path, link: &Link, credentials: &Credentials, assumed: (&str, &str)) -> io::Result<()> {
    let expiry = credentials.expiry().map(DateTime::from).and_then(|time| time.fmt(Format::DateTime).ok());
    let answer = json!({
        "Credentials": {
            "AccessKeyId": credentials.access_key_id(),
            "SecretAccessKey": credentials.secret_access_key(),
            "SessionToken": credentials.session_token(),
            "Expiration": expiry.ok_or(io::ErrorKind::InvalidInput)?,
            "AccountId": assumed.1.split(':').nth(4),
        },
        "AssumedRoleUser": { "AssumedRoleId": assumed.0, "Arn": assumed.1 },
    });
    private_file::make_folder(folder)?;
    private_file::replace(&folder.join(file_name(link)), answer.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::aws::canned::{DATE, seconds};

    fn link() -> Link {
        Link {
            profile: "dev".into(),
            role_arn: "arn:aws:iam::123456789012:role/Dev".into(),
            session_name: None,
            external_id: None,
            mfa_serial: Some("arn:aws:iam::123456789012:mfa/alice".into()),
            duration: None,
        }
    }

    /// Names that botocore 1.43 computes (`AssumeRoleCredentialFetcher`).
    #[test]
    fn files_have_the_names_that_the_aws_cli_gives_them() {
        let all = Link {
            session_name: Some("me".into()),
            external_id: Some("é\"\\\u{1f600}\u{7f}/".into()),
            duration: Some(7200),
            ..link()
        };
        for (link, name) in [(link(), NAME), (all, NAME_OF_ALL)] {
            assert_eq!(file_name(&link), format!("{name}.json"));
        }
    }

    const NAME: &str = "bddce06f05976fa6453697386d5a5e375ed1bc1b";
    const NAME_OF_ALL: &str = "94fe394817668f0778eca61ac8e81a4111e778b9";

    #[test]
    fn what_was_written_is_read_while_it_lasts() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("cli").join("cache");
        let expiry = seconds(DATE + 3600);
        let credentials = Credentials::new("ASIA", "SECRET", Some("TOKEN".into()), Some(expiry), "test");
        for _ in 0..2 {
            let assumed = ("AROA:x", "arn:aws:sts::123456789012:assumed-role/Dev/x");
            write(&folder, &link(), &credentials, assumed).expect("a file");
        }
        let left = MIN_LEFT.as_secs();
        for (now, is_good) in [(DATE, true), (DATE + 3600 - left - 1, true), (DATE + 3600 - left, false)] {
            let found = read(&folder, &link(), seconds(now));
            assert_eq!(
                found.map(|found| (found.access_key_id().to_owned(), found.expiry())).is_some(),
                is_good,
                "{now}"
            );
        }
        let found = read(&folder, &link(), seconds(DATE)).expect("good");
        assert_eq!((found.secret_access_key(), found.session_token()), ("SECRET", Some("TOKEN")));
        assert_eq!(found.expiry(), Some(expiry));
        assert!(read(&folder, &Link { duration: Some(900), ..link() }, seconds(DATE)).is_none());

        let files: Vec<_> = fs::read_dir(&folder).expect("a folder").map(|file| file.expect("a file").path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
            assert_eq!((mode(&files[0]), mode(&folder)), (0o600, 0o700));
        }
    }

    #[test]
    fn a_file_that_is_none_of_these_is_passed_over() {
        let home = tempfile::tempdir().expect("a folder");
        let file = home.path().join(file_name(&link()));
        for text in ["", "{}", "[]", "nonsense", r#"{"Credentials":{"AccessKeyId":"A","SecretAccessKey":"B"}}"#] {
            fs::write(&file, text).expect("a file");
            assert!(read(home.path(), &link(), seconds(DATE)).is_none(), "{text}");
        }
        for time in ["2023-11-15T00:00:00UTC", "2023-11-15T00:00:00Z", "2023-11-15T00:00:00+00:00"] {
            let text = json!({"Credentials": {"AccessKeyId": "A", "SecretAccessKey": "B", "SessionToken": "C", "Expiration": time}});
            fs::write(&file, text.to_string()).expect("a file");
            assert!(read(home.path(), &link(), seconds(DATE)).is_some(), "{time}");
        }
    }
}
