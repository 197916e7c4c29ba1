//! What can go wrong, told apart as far as the remedies differ. The words are in the [`table`](super::table), how a
//! failure is recognised in [`diagnosis`](super::diagnosis).

use super::table::TABLE;
use crate::cli::exit::Exit;

/// What went wrong, as far as it can be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Symptom {
    AddressInUse,
    AddressPrivileged,
    AddressNotHere,
    AddressLinkLocal,
    AddressNoPair,
    AddressFailed,
    SocketInUse,
    SocketIsNone,
    SocketNoFolder,
    SocketDenied,
    SocketTooLong,
    NoRegion,
    NoSuchProfile,
    BrokenProfile,
    BadConfiguration,
    NoCredentials,
    ExpiredLogin,
    ExpiredEnvironment,
    WrongKeys,
    MfaCode,
    CredentialProcess,
    WebIdentity,
    NoKeysHere,
    RoleDenied,
    ClockSkew,
    ApiUnresolved,
    ApiTls,
    ApiUnreachable,
    ProxyUnreachable,
    ProxyRefused,
    Throttled,
    ServiceFailed,
    BadAnswer,
    StartDenied,
    ExplicitDeny,
    RemoteHostsForbidden,
    LimitedByPolicy,
    CallDenied,
    DataChannelDenied,
    TargetNotConnected,
    TargetOffline,
    TargetUnknown,
    TargetNotFound,
    NodesOffline,
    NoCluster,
    NoService,
    NoTask,
    ExecDisabled,
    NoExecAgent,
    NoContainer,
    LookupDenied,
    TasksDenied,
    NoDocument,
    DocumentNotForSessions,
    InvalidRequest,
    RemoteHostsUnsupported,
    SessionLimit,
    GatewayUnresolved,
    GatewayUnreachable,
    GatewayTls,
    UpgradeRefused,
    UpgradeBroken,
    AgentLate,
    NotReady,
    AgentTooOld,
    ForbiddenAddress,
    HostUnresolved,
    DestinationUnreachable,
    DestinationUnacknowledged,
    EncryptionDenied,
    EncryptionAsked,
    DataKeyDenied,
    DataKeyUnusable,
    EncryptionBroken,
    NotAPortSession,
    AgentFailed,
    EndedEarly,
    SessionGone,
    DestinationRefused,
    DestinationSilent,
    OneConnection,
    IdleTimeout,
    MaxDuration,
    SessionOver,
    UnsignedUpgrade,
}

/// A row of the table.
#[derive(Debug)]
pub(in crate::cli) struct Row {
    pub(in crate::cli) symptom: Symptom,
    /// For programs: `symptom` of the `error` event.
    pub(in crate::cli) name: &'static str,
    /// What is seen: the words of the failure, or what they say.
    #[cfg_attr(not(test), expect(dead_code, reason = "README shows it"))]
    pub(in crate::cli) seen: &'static str,
    /// What it means.
    pub(in crate::cli) cause: &'static str,
    /// The failure's own words do not say what it means: the report does.
    pub(in crate::cli) explains: bool,
    /// What the user can do now.
    pub(in crate::cli) hint: &'static str,
    /// `None`: the forward goes on.
    pub(in crate::cli) exit: Option<Exit>,
}

impl Symptom {
    pub(super) const COUNT: usize = Self::UnsignedUpgrade as usize + 1;

    /// What is known of it.
    pub(in crate::cli) fn row(self) -> &'static Row {
        // In range and in its place: checked below, while compiling.
        TABLE.get(self as usize).unwrap_or(&TABLE[0])
    }

    /// Whether a session could not get ready because of its destination.
    pub(in crate::cli) const fn is_of_destination(self) -> bool {
        matches!(self, Self::DestinationUnreachable | Self::DestinationUnacknowledged | Self::HostUnresolved)
    }

    /// Whether the target could not be looked up, so that no session was asked for.
    pub(in crate::cli) const fn is_of_lookup(self) -> bool {
        matches!(
            self,
            Self::TargetNotFound
                | Self::NodesOffline
                | Self::NoCluster
                | Self::NoService
                | Self::NoTask
                | Self::ExecDisabled
                | Self::NoExecAgent
                | Self::NoContainer
                | Self::LookupDenied
                | Self::TasksDenied
        )
    }
}

const _: () = {
    let mut at = 0;
    while at < TABLE.len() {
        assert!(TABLE[at].symptom as usize == at, "the table's rows are in the order of the symptoms");
        at += 1;
    }
};
