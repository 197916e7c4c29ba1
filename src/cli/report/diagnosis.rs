//! How a failure is recognised: from types where there are types, and from the words of the service and the agent where
//! there is nothing else.

use std::{io, net::SocketAddr};

use super::{
    facts::{Details, Service},
    symptom::Symptom,
};
use crate::{
    aws::{self, Denial, DeniedBy, Fault, LookupFault},
    cli::plan::Access,
    forward::BindError,
    proto::{Cause, CloseReason, Initiator},
    session::{ConnectError, ControlError, ControlErrorKind, DialError},
};

/// The call that only a session with encryption makes.
const GENERATE_DATA_KEY: &str = "GenerateDataKey";

/// The document of forwards to other hosts.
const REMOTE_HOSTS: &str = "document/AWS-StartPortForwardingSessionToRemoteHost";

/// What an agent or the service says at the end of a session. The first that fits; one of an agent comes before what
/// it is a part of (`proto-notes/control-plane.md#errors`).
const LAST_WORDS: [(&str, Symptom); 12] = [
    ("Forwarding to IP address", Symptom::ForbiddenAddress),
    ("no such host", Symptom::HostUnresolved),
    ("missing address", Symptom::HostUnresolved),
    ("Unable to connect to specified port", Symptom::DestinationUnreachable),
    ("Plugin with name", Symptom::AgentTooOld),
    ("Fetching data key failed", Symptom::EncryptionDenied),
    ("Handshake timed out", Symptom::AgentLate),
    ("----------ERROR-------", Symptom::AgentFailed),
    ("Setting up data channel", Symptom::AgentFailed),
    ("inactivity", Symptom::IdleTimeout),
    ("maximum duration", Symptom::MaxDuration),
    ("maximum session duration", Symptom::MaxDuration),
];

/// The symptom in the last words of a session, if they are known.
pub(in crate::cli) fn of_words(text: &str) -> Option<Symptom> {
    LAST_WORDS.iter().find(|(words, _)| text.contains(words)).map(|(_, symptom)| *symptom)
}

/// Why a session that was ready is over; `None` where its own words are all there is to say.
pub(in crate::cli) fn of_end(reason: &CloseReason) -> Option<Symptom> {
    match &reason.cause {
        Cause::SessionOver => Some(Symptom::SessionOver),
        Cause::ChannelClosed(text) => of_words(text),
        Cause::Encryption(_) => Some(Symptom::EncryptionBroken),
        _ => None,
    }
}

/// What kept a session from getting ready.
pub(super) fn of_connect(error: &ConnectError, access: &Access) -> (Option<Symptom>, Details) {
    match error {
        ConnectError::Control(error) | ConnectError::Dial(DialError::Sign(error)) => {
            let (symptom, details) = of_control(error, access);
            (Some(symptom), details)
        }
        ConnectError::Dial(error) => (Some(of_dial(error)), Details { gateway: gateway(error), ..Details::default() }),
        ConnectError::Closed(reason) => (of_early_end(reason), Details::default()),
        ConnectError::TimedOut(_) => (Some(Symptom::NotReady), Details::default()),
        ConnectError::Cancelled => (None, Details::default()),
    }
}

/// What went wrong in a call.
pub(super) fn of_control(error: &ControlError, access: &Access) -> (Symptom, Details) {
    let target = (error.operation == "StartSession").then(|| error.resource.clone());
    let key = (error.operation == GENERATE_DATA_KEY).then(|| error.resource.clone());
    let details = Details { operation: Some(error.operation), target, key, ..Details::default() };
    if let Some(fault) = aws::fault(error) {
        return (of_fault(fault), details);
    }
    if let Some(fault) = aws::lookup_fault(error) {
        return (of_lookup(fault), Details { service: service_of(fault), ..details });
    }
    let symptom = match error.kind {
        ControlErrorKind::NoCredentials => Symptom::NoCredentials,
        ControlErrorKind::ExpiredCredentials if access.keys_in_environment => Symptom::ExpiredEnvironment,
        ControlErrorKind::ExpiredCredentials => Symptom::ExpiredLogin,
        ControlErrorKind::ClockSkew => Symptom::ClockSkew,
        ControlErrorKind::NoRegion => Symptom::NoRegion,
        ControlErrorKind::AccessDenied if details.key.is_some() => Symptom::DataKeyDenied,
        ControlErrorKind::InvalidRequest if details.key.is_some() => Symptom::DataKeyUnusable,
        ControlErrorKind::AccessDenied => {
            let denial = Denial::parse(&error.message);
            let symptom = of_denial(error.operation, denial.as_ref());
            return (symptom, Details { denial, ..details });
        }
        ControlErrorKind::TargetNotConnected => Symptom::TargetNotConnected,
        ControlErrorKind::InvalidDocument if error.message.contains("remote hosts are not supported") => {
            Symptom::RemoteHostsUnsupported
        }
        ControlErrorKind::InvalidDocument if error.message.to_ascii_lowercase().contains("document type") => {
            Symptom::DocumentNotForSessions
        }
        ControlErrorKind::InvalidDocument => Symptom::NoDocument,
        ControlErrorKind::InvalidRequest | ControlErrorKind::Throttled if says_session_limit(&error.message) => {
            Symptom::SessionLimit
        }
        ControlErrorKind::InvalidRequest => Symptom::InvalidRequest,
        ControlErrorKind::NoSuchSession => Symptom::SessionGone,
        ControlErrorKind::Throttled => Symptom::Throttled,
        ControlErrorKind::Service => Symptom::ServiceFailed,
        ControlErrorKind::Network => Symptom::ApiUnreachable,
        ControlErrorKind::BadAnswer => Symptom::BadAnswer,
    };
    (symptom, details)
}

/// Why a target leads nowhere.
fn of_lookup(fault: &LookupFault) -> Symptom {
    match fault {
        LookupFault::NoMatch => Symptom::TargetNotFound,
        LookupFault::Offline => Symptom::NodesOffline,
        LookupFault::NoCluster => Symptom::NoCluster,
        LookupFault::NoService => Symptom::NoService,
        LookupFault::NoTask => Symptom::NoTask,
        LookupFault::ExecOff { .. } => Symptom::ExecDisabled,
        LookupFault::NoAgent => Symptom::NoExecAgent,
        LookupFault::NoContainer => Symptom::NoContainer,
    }
}

fn service_of(fault: &LookupFault) -> Option<Service> {
    match fault {
        LookupFault::ExecOff { cluster, service } => Some(Service { cluster: cluster.clone(), name: service.clone() }),
        _ => None,
    }
}

fn of_fault(fault: Fault) -> Symptom {
    match fault {
        Fault::NoSuchProfile => Symptom::NoSuchProfile,
        Fault::BrokenConfiguration => Symptom::BrokenProfile,
        Fault::WrongKeys => Symptom::WrongKeys,
        Fault::MfaCode => Symptom::MfaCode,
        Fault::CredentialProcess => Symptom::CredentialProcess,
        Fault::WebIdentity => Symptom::WebIdentity,
        Fault::Environment => Symptom::NoKeysHere,
        Fault::RoleDenied => Symptom::RoleDenied,
        Fault::Unresolved => Symptom::ApiUnresolved,
        Fault::Tls => Symptom::ApiTls,
        Fault::Proxy => Symptom::ProxyUnreachable,
        Fault::ProxyRefused => Symptom::ProxyRefused,
    }
}

fn of_denial(operation: &str, denial: Option<&Denial>) -> Symptom {
    // Whoever denies a lookup: a target that is named by its id does without.
    match operation {
        "DescribeInstanceInformation" | "DescribeInstanceProperties" => return Symptom::LookupDenied,
        "ListTasks" | "DescribeTasks" => return Symptom::TasksDenied,
        _ => {}
    }
    match denial.map(|denial| (&denial.by, denial.resource.as_deref())) {
        Some((DeniedBy::ExplicitDeny(_), Some(resource))) if resource.ends_with(REMOTE_HOSTS) => {
            Symptom::RemoteHostsForbidden
        }
        Some((DeniedBy::ExplicitDeny(_), _)) => Symptom::ExplicitDeny,
        Some((DeniedBy::Limit(_), _)) => Symptom::LimitedByPolicy,
        _ => match operation {
            "OpenDataChannel" => Symptom::DataChannelDenied,
            "StartSession" => Symptom::StartDenied,
            _ => Symptom::CallDenied,
        },
    }
}

/// The service's own words for it are not known: any that speak of sessions and of too many.
fn says_session_limit(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    said.contains("session")
        && ["maximum number", "too many", "limit exceeded", "no room"].iter().any(|it| said.contains(it))
}

fn of_dial(error: &DialError) -> Symptom {
    match error {
        DialError::Resolve { .. } => Symptom::GatewayUnresolved,
        DialError::Connect { .. } | DialError::Sign(_) => Symptom::GatewayUnreachable,
        DialError::Tls { .. } => Symptom::GatewayTls,
        DialError::Refused { status: 403, .. } => Symptom::DataChannelDenied,
        DialError::Refused { .. } => Symptom::UpgradeRefused,
        DialError::Upgrade { .. } => Symptom::UpgradeBroken,
        DialError::Trust(_) | DialError::ProxySetting(_) => Symptom::BadConfiguration,
        DialError::ProxyConnect { .. } | DialError::ProxyTls { .. } | DialError::ProxyAnswer { .. } => {
            Symptom::ProxyUnreachable
        }
        DialError::ProxyRefused { .. } => Symptom::ProxyRefused,
    }
}

fn gateway(error: &DialError) -> Option<String> {
    match error {
        DialError::Resolve { host, .. }
        | DialError::Connect { host, .. }
        | DialError::Tls { host, .. }
        | DialError::Refused { host, .. }
        | DialError::ProxyRefused { host, .. }
        | DialError::ProxyAnswer { host, .. }
        | DialError::Upgrade { host, .. } => Some(host.clone()),
        DialError::Sign(_)
        | DialError::Trust(_)
        | DialError::ProxySetting(_)
        | DialError::ProxyConnect { .. }
        | DialError::ProxyTls { .. } => None,
    }
}

/// A session that was closed before it was ready. If the agent did it, it cannot serve the document.
fn of_early_end(reason: &CloseReason) -> Option<Symptom> {
    match (reason.initiator, &reason.cause) {
        (Initiator::Agent | Initiator::Library, Cause::ChannelClosed(text)) => {
            Some(of_words(text).unwrap_or(Symptom::AgentFailed))
        }
        (Initiator::Service, Cause::ChannelClosed(text)) => match of_words(text) {
            // Of an agent after all: the gateway passes on its words.
            Some(symptom) if symptom.row().exit.is_some() => Some(symptom),
            _ => Some(Symptom::EndedEarly),
        },
        (Initiator::Service, _) => Some(Symptom::EndedEarly),
        (Initiator::Agent, _) | (_, Cause::ChannelClosed(_)) => Some(Symptom::AgentFailed),
        // Without streams the agent acknowledges the first bytes once it is connected there.
        (_, Cause::Timeout(_)) if reason.is_destination_unreachable() => Some(Symptom::DestinationUnacknowledged),
        (_, Cause::Timeout(_)) => Some(Symptom::AgentLate),
        (_, Cause::Encryption(_)) => Some(Symptom::EncryptionBroken),
        (_, Cause::Handshake(text)) if text.contains("KMSEncryption") => Some(Symptom::EncryptionAsked),
        (_, Cause::Handshake(text)) if text.contains("sessions of type") => Some(Symptom::NotAPortSession),
        _ => None,
    }
}

/// Why a local address cannot be bound.
pub(super) fn of_bind(error: &BindError) -> Symptom {
    match error {
        BindError::Tcp { address, source } => match source.kind() {
            io::ErrorKind::AddrInUse => Symptom::AddressInUse,
            io::ErrorKind::PermissionDenied => Symptom::AddressPrivileged,
            io::ErrorKind::InvalidInput if is_link_local(address) => Symptom::AddressLinkLocal,
            io::ErrorKind::AddrNotAvailable => Symptom::AddressNotHere,
            _ => Symptom::AddressFailed,
        },
        BindError::NoPair { .. } => Symptom::AddressNoPair,
        BindError::UnixInUse { .. } => Symptom::SocketInUse,
        BindError::NotASocket { .. } => Symptom::SocketIsNone,
        BindError::Unix { source, .. } => match source.kind() {
            io::ErrorKind::NotFound => Symptom::SocketNoFolder,
            io::ErrorKind::PermissionDenied => Symptom::SocketDenied,
            io::ErrorKind::InvalidInput => Symptom::SocketTooLong,
            _ => Symptom::AddressFailed,
        },
        BindError::Adopted { .. } | BindError::Unsupported { .. } => Symptom::AddressFailed,
    }
}

fn is_link_local(address: &SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(address) if address.ip().is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_recognised() {
        for (text, symptom) in [
            ("Forwarding to IP address 169.254.169.254 is forbidden.", Some(Symptom::ForbiddenAddress)),
            (
                "Unable to connect to specified port: dial tcp: lookup nohost on 10.0.0.2:53: no such host",
                Some(Symptom::HostUnresolved),
            ),
            ("Unable to connect to specified port: connection refused", Some(Symptom::DestinationUnreachable)),
            ("Your session timed out due to inactivity and has been terminated.", Some(Symptom::IdleTimeout)),
            ("Your session has reached its maximum duration and has been terminated.", Some(Symptom::MaxDuration)),
            ("closed for the duration of the maintenance", None),
            ("maintenance", None),
            ("", None),
        ] {
            assert_eq!(of_words(text), symptom, "{text}");
        }
    }

    #[test]
    fn limits_of_sessions_are_told_from_other_bad_requests() {
        for text in ["The maximum number of sessions has been reached.", "The target has no room for more sessions."] {
            assert!(says_session_limit(text), "{text}");
        }
        for text in ["Rate exceeded", "maxSessionDuration is not valid", "limit exceeded"] {
            assert!(!says_session_limit(text), "{text}");
        }
    }
}
