//! The data key of a session that is encrypted (`proto-notes/handshake.md#encryption`).

use std::{collections::BTreeMap, fmt};

use base64::{DecodeError, Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroizing;

use super::{Aws, errors::Call, json_call::Refusal, json_service::KMS};
use crate::session::{ControlError, ControlErrorKind, DataKeyGrant, DataKeyRequest};

/// The call, as IAM and errors name it.
const GENERATE_DATA_KEY: &str = "GenerateDataKey";

/// Bytes of the key: one half for each direction. Not a KeySpec, which the agent does not use either.
const KEY_LEN: u32 = 64;

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Input<'a> {
    key_id: &'a str,
    number_of_bytes: u32,
    encryption_context: BTreeMap<&'static str, &'a str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Output {
    #[serde(deserialize_with = "wiped")]
    plaintext: Zeroizing<String>,
    ciphertext_blob: String,
}

/// Shows no key.
impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GenerateDataKey(redacted)")
    }
}

/// A text that is wiped when it is no longer needed.
fn wiped<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

/// What base64 stands for. Wiped, also where it breaks off; with room from the start, so that nothing is left behind by a
/// move.
fn decoded(text: &str) -> Result<Zeroizing<Vec<u8>>, DecodeError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    STANDARD.decode_vec(text, &mut bytes)?;
    Ok(bytes)
}

/// What the key is bound to. The agent gives the same, or KMS does not open the key for it.
fn encryption_context(request: &DataKeyRequest) -> BTreeMap<&'static str, &str> {
    let mut context =
        BTreeMap::from([("aws:ssm:SessionId", &*request.session_id.0), ("aws:ssm:TargetId", &*request.target)]);
    if let Some(challenge) = &request.challenge {
        context.insert("aws:ssm:RandomChallenge", challenge);
    }
    context
}

impl Aws {
    pub(super) async fn generate_data_key(&self, request: &DataKeyRequest) -> Result<DataKeyGrant, ControlError> {
        let call = Call { operation: GENERATE_DATA_KEY, resource: &request.key_id };
        let input = Input {
            key_id: &request.key_id,
            number_of_bytes: KEY_LEN,
            encryption_context: encryption_context(request),
        };
        let output: Output = self.call_json(&KMS, call, &input, &mut Refusal::default()).await?;
        let not_base64 = |error: DecodeError| {
            call.caused(ControlErrorKind::BadAnswer, "a key in the answer of KMS is not base64", &error)
        };
        Ok(DataKeyGrant {
            plaintext: decoded(&output.plaintext).map_err(not_base64)?,
            ciphertext: STANDARD.decode(&output.ciphertext_blob).map_err(not_base64)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{io, process::Command};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::{
        aws::{
            AwsOptions,
            canned::{Answer, Canned},
        },
        session::SessionId,
    };

    fn request() -> DataKeyRequest {
        DataKeyRequest {
            key_id: "alias/sessions".to_owned(),
            session_id: SessionId("alice-1".to_owned()),
            target: "i-0123456789abcdef0".to_owned(),
            challenge: None,
        }
    }

    #[test]
    fn a_key_is_bound_to_session_target_and_challenge() {
        let mut request = request();
        let input = |request: &DataKeyRequest| {
            serde_json::to_value(Input {
                key_id: &request.key_id,
                number_of_bytes: KEY_LEN,
                encryption_context: encryption_context(request),
            })
            .expect("JSON")
        };
        assert_eq!(
            input(&request),
            serde_json::json!({
                "KeyId": "alias/sessions",
                "NumberOfBytes": 64,
                "EncryptionContext": {"aws:ssm:SessionId": "alice-1", "aws:ssm:TargetId": "i-0123456789abcdef0"},
            })
        );
        request.challenge = Some("cmFuZG9t".to_owned());
        assert_eq!(input(&request)["EncryptionContext"]["aws:ssm:RandomChallenge"], "cmFuZG9t");
    }

    /// In a process of its own: which lines of a log exist is decided for all threads at once.
    #[tokio::test]
    async fn the_key_is_nowhere_in_the_sdks_own_log() {
        const TEST: &str = "aws::data_key::tests::the_key_is_nowhere_in_the_sdks_own_log";
        const MARK: &str = "SSMFWD_TEST_LOGS";
        let key = STANDARD.encode([0x5a; 64]);
        if std::env::var_os(MARK).is_none() {
            let mut again = Command::new(std::env::current_exe().expect("this program"));
            again.args(["--exact", TEST, "--test-threads=1", "--nocapture"]).env(MARK, "1").env("NO_PROXY", "*");
            let ran = again.env_remove("LOG_SENSITIVE_BODIES").output().expect("it runs");
            let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
            assert!(ran.status.success() && said.contains("1 passed"), "{said}");
            assert!(said.contains("GenerateDataKey") && said.contains("read HTTP response body"), "{said}");
            assert!(!said.contains(&key[..20]) && !said.contains("90, 90, 90"), "{said}");
            return;
        }
        tracing_subscriber::fmt()
            .with_max_level(tracing::level_filters::LevelFilter::TRACE)
            .with_ansi(false)
            .with_writer(io::stderr)
            .init();
        // Over a socket, as with the service: what is in memory from the start the SDK shows as it is.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let body = serde_json::json!({ "Plaintext": key, "CiphertextBlob": "c2VhbGVk" }).to_string();
        let serving = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("a call");
            let mut asked = Vec::new();
            while !asked.ends_with(b"}}") {
                socket.read_buf(&mut asked).await.expect("a request");
            }
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.1\r\nconnection: close\r\n";
            let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
            socket.write_all(answer.as_bytes()).await.expect("it listens");
        });
        let mut config = Canned::default().config().into_builder();
        config.set_http_client(None);
        let config = config.endpoint_url(url).build();
        let aws = Aws::from_sdk_config(&config, AwsOptions::default()).expect("a region");
        let grant = aws.generate_data_key(&request()).await.expect("a key");
        assert!(grant.plaintext[..] == [0x5a; 64] && grant.ciphertext == b"sealed");
        serving.await.expect("no panic");
    }

    #[tokio::test]
    async fn an_answer_that_is_not_the_services_is_named_without_it() {
        let key = STANDARD.encode([0x5a; 64]);
        for (body, said) in [
            (format!(r#"{{"Plaintext":"{key}"}}"#), "the answer is not what KMS answers"),
            (format!(r#"{{"Plaintext":["{key}"],"CiphertextBlob":""}}"#), "the answer is not what KMS answers"),
            (format!(r#"{{"Plaintext":"{key}!","CiphertextBlob":""}}"#), "is not base64"),
            (format!(r#"{{"Plaintext":"{key}"#), "cannot be read"),
        ] {
            let canned = Canned::new([Answer::json(200, body)]);
            let aws = Aws::from_sdk_config(&canned.config(), AwsOptions::default()).expect("a region");
            let error = aws.generate_data_key(&request()).await.expect_err("no key");
            assert!(error.kind == ControlErrorKind::BadAnswer && error.to_string().contains(said), "{error:?}");
            assert!(!format!("{error:?}").contains(&key), "{error:?}");
        }
    }
}
