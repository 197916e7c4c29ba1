//! Login to AWS IAM Identity Center: the token that the profiles of an `sso-session` live on.
//!
//! ```text
//! profile files ─▶ Center ─▶ Oidc ─▶ authorize() ─▶ Authorization: a page, and a listener that its answer comes to
//!                              │  └▶ device() ────▶ Device: a code to type in on any machine
//!                              │  └▶ refresh()
//!                              └──────────────────▶ Token ─▶ TokenFile, which the AWS CLI and the SDKs read
//! Portal: the accounts and roles that a token opens        profile_section: one of them as a profile
//! ```
//!
//! The steps and the file are those of the AWS CLI v2, so that each finds what the other has left
//! (`proto-notes/login.md`). No browser is opened and nothing is printed here: that is the command line's.

mod authorize;
mod callback;
mod center;
mod device;
mod error;
mod oidc;
mod pkce;
mod portal;
mod profile_section;
mod secret;
mod token;
mod token_file;

pub(crate) use self::{
    authorize::Authorization,
    center::{Center, Which},
    error::LoginError,
    oidc::Oidc,
    portal::{Account, Portal},
    profile_section::ProfileSection,
    token::Token,
    token_file::TokenFile,
};
