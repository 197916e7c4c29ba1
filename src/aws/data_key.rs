//! The data key of a session that is encrypted (`proto-notes/handshake.md#encryption`).

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

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
    plaintext: String,
    ciphertext_blob: String,
}

impl Drop for Output {
    fn drop(&mut self) {
        self.plaintext.zeroize();
    }
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
        let decoded = |text: &str| {
            STANDARD.decode(text).map_err(|error| {
                call.caused(ControlErrorKind::BadAnswer, "a key in the answer of KMS is not base64", &error)
            })
        };
        Ok(DataKeyGrant {
            plaintext: Zeroizing::new(decoded(&output.plaintext)?),
            ciphertext: decoded(&output.ciphertext_blob)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionId;

    #[test]
    fn a_key_is_bound_to_session_target_and_challenge() {
        let mut request = DataKeyRequest {
            key_id: "alias/sessions".to_owned(),
            session_id: SessionId("alice-1".to_owned()),
            target: "i-0123456789abcdef0".to_owned(),
            challenge: None,
        };
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
}
