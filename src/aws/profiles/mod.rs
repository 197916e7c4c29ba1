//! Roles of profiles that the SDK alone does not assume as the user means it: with `mfa_serial` or `duration_seconds`.
//!
//! ```text
//! profile files ─▶ Chain: base credentials, then role by role ─▶ Roles ── AssumeRole ──▶ STS
//!                                                                 │ └── MfaPrompt: a person
//!                                                                 └──── cache: the AWS CLI's, of roles with MFA
//! ```
//!
//! The SDK ignores both settings without a word. Where no role of a chain has one, everything is left to the SDK, and
//! nothing of this is used.

mod assume;
mod begin;
mod cache;
mod chain;
mod mfa;

pub use self::mfa::{MfaCode, MfaPrompt, MfaRequest, NoCode, SharedMfaPrompt};
pub(super) use self::{
    assume::{RoleError, Roles},
    begin::{Begin, UnreadableIdentity},
    chain::Chain,
};
