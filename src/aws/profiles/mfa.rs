//! Codes of MFA devices, and who is asked for them.

use std::{fmt, io, sync::Arc};

use zeroize::Zeroizing;

use crate::session::BoxFuture;

/// Digits of a code, as AssumeRole takes it.
const DIGITS: usize = 6;

/// A code that an MFA device shows: six digits, good once and for about a minute.
#[derive(Clone, PartialEq, Eq)]
pub struct MfaCode(Zeroizing<String>);

impl MfaCode {
    /// The code in a text; spaces around it and inside, as devices group digits, are left out. `None` if that is not
    /// six digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = Zeroizing::new(text.chars().filter(|char| !char.is_whitespace()).collect::<String>());
        (digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(Self(digits))
    }

    /// For the one call that it is for.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

/// Shows no digit.
impl fmt::Debug for MfaCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MfaCode(…)")
    }
}

/// What a code is wanted for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MfaRequest {
    /// The profile that has the `mfa_serial`.
    pub profile: String,
    /// The serial number or ARN of the device.
    pub serial: String,
    /// The role that is to be assumed.
    pub role_arn: String,
    /// What STS said of the code before this one.
    pub refused: Option<String>,
}

impl MfaRequest {
    /// The first question for a code.
    #[must_use]
    pub fn new(profile: impl Into<String>, serial: impl Into<String>, role_arn: impl Into<String>) -> Self {
        Self { profile: profile.into(), serial: serial.into(), role_arn: role_arn.into(), refused: None }
    }
}

/// Why there is no code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoCode {
    /// Nobody is there who could be asked.
    #[error("there is no terminal to ask for it, and none was given with --mfa-code")]
    NoTerminal,
    /// Whoever was asked gave none.
    #[error("none was entered")]
    Cancelled,
    /// The terminal failed.
    #[error("the terminal cannot be read")]
    Terminal(#[from] io::Error),
}

/// Asks for codes of MFA devices.
///
/// It is asked whenever a role with an `mfa_serial` must be assumed: at the start, and again when its credentials have
/// expired under a tunnel. The future may be dropped when nobody waits for the code any more; the next question may
/// come while the last one is still on the screen.
pub trait MfaPrompt: Send + Sync + fmt::Debug {
    /// A code of a device, however long that takes.
    fn code<'a>(&'a self, request: &'a MfaRequest) -> BoxFuture<'a, Result<MfaCode, NoCode>>;
}

/// A prompt as an option: shared, and the same only as itself.
#[derive(Debug, Clone)]
pub struct SharedMfaPrompt(Arc<dyn MfaPrompt>);

impl SharedMfaPrompt {
    /// Shares a prompt.
    pub fn new(prompt: impl MfaPrompt + 'static) -> Self {
        Self(Arc::new(prompt))
    }

    pub(super) async fn code(&self, request: &MfaRequest) -> Result<MfaCode, NoCode> {
        self.0.code(request).await
    }
}

impl PartialEq for SharedMfaPrompt {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SharedMfaPrompt {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_six_digits() {
        for text in ["123456", " 123456\n", "123 456", "000000"] {
            let code = MfaCode::parse(text).unwrap_or_else(|| panic!("{text:?}"));
            assert_eq!(code.reveal().len(), 6);
        }
        for text in ["", "12345", "1234567", "12345x", "12345６", "-12345", "123,456"] {
            assert_eq!(MfaCode::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_code_is_not_shown() {
        let code = MfaCode::parse("123456").expect("digits");
        assert!(!format!("{code:?}").contains("123"));
    }
}
