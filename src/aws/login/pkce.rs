//! PKCE: the proof that whoever takes a code is whoever asked for it (RFC 7636).

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{LoginError, secret::Secret};

/// Random bytes of a verifier: 64 characters, as many as the AWS CLI takes. RFC 7636 wants 43 to 128.
const VERIFIER_BYTES: usize = 48;

/// Random bytes of a state: what nobody guesses.
const STATE_BYTES: usize = 24;

/// The secret that is shown with the code.
pub(super) struct Verifier(Secret);

impl Verifier {
    pub(super) fn random() -> Result<Self, LoginError> {
        random::<VERIFIER_BYTES>().map(|text| Self(Secret::new(text)))
    }

    /// What of it may be seen beforehand, by method S256.
    pub(super) fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, self.0.expose().as_bytes()))
    }

    pub(super) fn expose(&self) -> &str {
        self.0.expose()
    }
}

/// What the answer of a page must repeat. It is no secret of ours: the browser knows it.
pub(super) fn state() -> Result<String, LoginError> {
    random::<STATE_BYTES>()
}

fn random<const BYTES: usize>() -> Result<String, LoginError> {
    let mut bytes = [0; BYTES];
    rand::fill(&mut bytes).map_err(|_| LoginError::Random)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_that_of_the_rfc() {
        let verifier = Verifier(Secret::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"));
        assert_eq!(verifier.challenge(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn verifiers_have_the_form_of_the_rfc_and_differ() {
        let (one, other) = (Verifier::random().expect("random"), Verifier::random().expect("random"));
        assert_eq!(one.expose().len(), 64);
        assert!(one.expose().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        assert_ne!(one.expose(), other.expose());
        assert_ne!(state().expect("random"), state().expect("random"));
    }
}
