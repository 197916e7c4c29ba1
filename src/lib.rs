//! Port forwarding through AWS SSM Session Manager: one native implementation, without the AWS CLI and its plugin.

pub mod wire;
