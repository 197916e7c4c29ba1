//! The emulated KMS: GenerateDataKey for clients and Decrypt for the agent.
//!
//! It keeps no keys. A data key is derived from the emulator's seed, the KMS key, a number and the encryption context; what
//! is called its ciphertext is that number and a proof of the rest. So the same context opens it, and no other does.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::{
    EmulatorConfig,
    agent::DecryptRequest,
    api::{ApiError, decode},
    inventory::encode,
    service::Service,
};
use crate::wire::DataKey;

const ACCOUNT: &str = "123456789012";
/// Bytes of a data key for a session.
const KEY_LEN: usize = 64;
const NUMBER_LEN: usize = 8;
/// The key that an alias stands for.
const ALIASED: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";

/// The key material of the emulated account.
pub(super) struct Keys {
    material: hmac::Key,
    generated: AtomicU64,
}

impl Keys {
    pub(super) fn new(seed: u64) -> Self {
        let material = hmac::Key::new(hmac::HMAC_SHA512, &[b"emulated KMS".as_slice(), &seed.to_be_bytes()].concat());
        Self { material, generated: AtomicU64::new(1) }
    }

    fn generate(&self, key: &str, context: &Context) -> ([u8; KEY_LEN], Vec<u8>) {
        let number = self.generated.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let proof = self.derive("proof", &number, key, context);
        (self.derive("plaintext", &number, key, context), [&number[..], &proof].concat())
    }

    /// What the agent gets of KMS: the data key, or the text of the error.
    pub(super) fn decrypt(&self, config: &EmulatorConfig, request: &DecryptRequest) -> Result<DataKey, String> {
        let key = find(config, &request.key_id).map_err(|error| error.to_string())?;
        if config.agent_kms_denied {
            return Err(format!(
                "AccessDeniedException: User: arn:aws:sts::{ACCOUNT}:assumed-role/instance/agent is not authorized to \
                 perform: kms:Decrypt on resource: {key}"
            ));
        }
        let (number, proof) = request.ciphertext.split_at_checked(NUMBER_LEN).unwrap_or_default();
        let expected = self.derive("proof", number, &key, &request.context);
        if proof != expected {
            return Err("InvalidCiphertextException: ".into());
        }
        let plaintext = self.derive("plaintext", number, &key, &request.context);
        DataKey::new(&plaintext).map_err(|error| error.to_string())
    }

    fn derive(&self, what: &str, number: &[u8], key: &str, context: &Context) -> [u8; KEY_LEN] {
        let input = json!([what, number, key, context]).to_string();
        let mut derived = [0; KEY_LEN];
        derived.copy_from_slice(hmac::sign(&self.material, input.as_bytes()).as_ref());
        derived
    }
}

/// What a data key is bound to.
type Context = BTreeMap<String, String>;

/// The ARN of the one key there is, without an id if there is none.
pub(super) fn arn(config: &EmulatorConfig) -> String {
    let name = config.kms_key.as_deref().unwrap_or_default();
    let id = if name.contains("alias/") { ALIASED } else { last_part(name) };
    arn_of(config, &format!("key/{id}"))
}

/// The ARN of the key that a name stands for: its ARN, its id, or its alias in either form.
fn find(config: &EmulatorConfig, name: &str) -> Result<String, ApiError> {
    let arn = arn(config);
    let known = config.kms_key.as_deref().unwrap_or_default();
    let alias = known.contains("alias/").then(|| format!("alias/{}", last_part(known)));
    let is_alias = alias.is_some_and(|alias| name == alias || name == arn_of(config, &alias));
    if config.kms_key.is_some() && (is_alias || name == arn || name == last_part(&arn)) {
        return Ok(arn);
    }
    let full = |resource: &str| if name.starts_with("arn:") { name.to_owned() } else { arn_of(config, resource) };
    if name.contains("alias/") {
        return Err(ApiError::new("NotFoundException", format!("Alias {} is not found.", full(name))));
    }
    Err(not_found(&full(&format!("key/{name}"))))
}

fn arn_of(config: &EmulatorConfig, resource: &str) -> String {
    format!("arn:aws:kms:{}:{ACCOUNT}:{resource}", config.region)
}

fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

pub(super) fn not_found(arn: &str) -> ApiError {
    ApiError::new("NotFoundException", format!("Key '{arn}' does not exist"))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GenerateInput {
    key_id: Option<String>,
    number_of_bytes: Option<u32>,
    key_spec: Option<String>,
    #[serde(default)]
    encryption_context: Context,
}

/// A data key of 64 bytes, which is what a session needs; KMS would give any length.
pub(super) fn generate_data_key(service: &Service, config: &EmulatorConfig, body: &[u8]) -> Result<Bytes, ApiError> {
    let input: GenerateInput = decode(body)?;
    let name = input.key_id.ok_or_else(|| ApiError::constraint("keyId", None, "not be null"))?;
    if input.key_spec.is_some() == input.number_of_bytes.is_some() {
        let text = "Please specify either number of bytes or key spec.";
        return Err(ApiError::new("ValidationException", text));
    }
    if input.number_of_bytes != Some(KEY_LEN as u32) {
        return Err(ApiError::new("ValidationException", "the emulator makes data keys of 64 bytes"));
    }
    let arn = find(config, &name)?;
    let (plaintext, ciphertext) = service.keys().generate(&arn, &input.encryption_context);
    encode(&json!({
        "CiphertextBlob": STANDARD.encode(ciphertext),
        "KeyId": arn,
        "Plaintext": STANDARD.encode(plaintext),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(target: &str) -> Context {
        [("aws:ssm:SessionId", "user-1"), ("aws:ssm:TargetId", target)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    fn config() -> EmulatorConfig {
        EmulatorConfig { kms_key: Some("alias/sessions".into()), ..EmulatorConfig::default() }
    }

    #[test]
    fn a_data_key_opens_with_its_context_and_key_only() {
        let (keys, config) = (Keys::new(1), config());
        let arn = arn(&config);
        let (plaintext, ciphertext) = keys.generate(&arn, &context("i-1"));
        let request = |key_id: &str, ciphertext: &[u8], context| DecryptRequest {
            key_id: key_id.into(),
            ciphertext: ciphertext.to_vec(),
            context,
        };
        let opened = keys.decrypt(&config, &request("alias/sessions", &ciphertext, context("i-1")));
        let sealed = opened.expect("its context").agent_to_client().seal([0; 12], b"x");
        assert!(DataKey::new(&plaintext).expect("64 bytes").agent_to_client().open(&sealed).is_ok());
        for (key_id, ciphertext, context) in [
            ("alias/sessions", &ciphertext[..], context("i-2")),
            ("alias/sessions", &ciphertext[..], Context::new()),
            ("another-key", &ciphertext[..], context("i-1")),
            ("alias/sessions", &ciphertext[1..], context("i-1")),
            ("alias/sessions", b"", context("i-1")),
        ] {
            assert!(keys.decrypt(&config, &request(key_id, ciphertext, context)).is_err(), "{key_id}");
        }
        assert_ne!(keys.generate(&arn, &context("i-1")).0, plaintext);
        let denied = EmulatorConfig { agent_kms_denied: true, ..config };
        let error = keys.decrypt(&denied, &request("alias/sessions", &ciphertext, context("i-1"))).expect_err("denied");
        assert!(error.contains("kms:Decrypt") && error.contains(&arn), "{error}");
    }

    #[test]
    fn the_key_has_several_names_and_others_are_not_found() {
        let aliased = config();
        let arn = arn(&aliased);
        assert_eq!(arn, format!("arn:aws:kms:us-east-1:123456789012:key/{ALIASED}"));
        for name in ["alias/sessions", "arn:aws:kms:us-east-1:123456789012:alias/sessions", ALIASED, &arn] {
            assert_eq!(find(&aliased, name), Ok(arn.clone()), "{name}");
        }
        let by_id = EmulatorConfig { kms_key: Some("0a-1b".into()), ..EmulatorConfig::default() };
        let by_arn = EmulatorConfig { kms_key: Some(self::arn(&by_id)), ..EmulatorConfig::default() };
        for config in [&by_id, &by_arn] {
            assert_eq!(find(config, "0a-1b"), Ok("arn:aws:kms:us-east-1:123456789012:key/0a-1b".into()));
        }
        let none = EmulatorConfig::default();
        for (config, name) in [(&aliased, "alias/other"), (&aliased, "sessions"), (&by_id, "alias/0a-1b"), (&none, "")]
        {
            assert_eq!(find(config, name).expect_err(name).code(), "NotFoundException");
        }
    }
}
