//! Port forwarding through AWS SSM Session Manager: one native implementation, without the AWS CLI and its plugin.

#[cfg(feature = "emulator")]
pub mod emulator;

pub mod proto;
pub mod wire;
