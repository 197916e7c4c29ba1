//! The error table: every failure that has a remedy of its own, what it means, what helps, and the exit status.
//!
//! Reports are made from it, and README shows it (a test compares the two). `{words}` in braces are filled in by
//! [`Facts`](super::facts::Facts); README shows them in capitals.

mod targets;

use super::symptom::{Row, Symptom};
use crate::cli::exit::Exit;

/// A failure whose own words say what it means.
const fn plain(
    (symptom, name): (Symptom, &'static str),
    exit: Exit,
    seen: &'static str,
    cause: &'static str,
    hint: &'static str,
) -> Row {
    Row { symptom, name, seen, cause, explains: false, hint, exit: Some(exit) }
}

/// A failure that is to be explained.
const fn riddle(
    (symptom, name): (Symptom, &'static str),
    exit: Exit,
    seen: &'static str,
    cause: &'static str,
    hint: &'static str,
) -> Row {
    Row { symptom, name, seen, cause, explains: true, hint, exit: Some(exit) }
}

/// Something that a forward survives.
const fn passing(
    (symptom, name): (Symptom, &'static str),
    seen: &'static str,
    cause: &'static str,
    hint: &'static str,
) -> Row {
    Row { symptom, name, seen, cause, explains: false, hint, exit: None }
}

/// The table.
pub(super) const TABLE: [Row; Symptom::COUNT] = [
    plain(
        (Symptom::AddressInUse, "address_in_use"),
        Exit::Bind,
        "cannot listen on ADDRESS: address in use",
        "another program listens there; no session was started",
        "another program uses it: take another LOCAL, or 0 for any free port",
    ),
    plain(
        (Symptom::AddressPrivileged, "address_privileged"),
        Exit::Bind,
        "cannot listen on ADDRESS: permission denied",
        "ports below 1024 need privileges",
        "take a LOCAL of 1024 or more: those below need privileges",
    ),
    plain(
        (Symptom::AddressNotHere, "address_not_here"),
        Exit::Bind,
        "cannot listen on ADDRESS: cannot assign requested address",
        "BIND is an address of another machine",
        "BIND must be an address of this machine",
    ),
    plain(
        (Symptom::AddressLinkLocal, "address_link_local"),
        Exit::Bind,
        "cannot listen on an address in fe80::/10",
        "such an address means nothing without its interface",
        "a link-local address needs a scope, which BIND cannot say: take another address",
    ),
    plain(
        (Symptom::AddressNoPair, "address_no_pair"),
        Exit::Bind,
        "found no port that is free on both 127.0.0.1 and ::1",
        "ten ports were tried",
        "name one address, as in 127.0.0.1:0:HOST:PORT",
    ),
    plain(
        (Symptom::AddressFailed, "address_failed"),
        Exit::Bind,
        "cannot listen, for another reason",
        "what the system says",
        "",
    ),
    plain(
        (Symptom::SocketInUse, "socket_in_use"),
        Exit::Bind,
        "cannot listen on PATH: in use",
        "a program listens on that unix socket",
        "take another PATH, or end the program that listens on it",
    ),
    plain(
        (Symptom::SocketIsNone, "socket_is_none"),
        Exit::Bind,
        "PATH exists and is no socket",
        "a file or a folder is in the way",
        "take another PATH; ssmfwd replaces nothing but unused sockets",
    ),
    plain(
        (Symptom::SocketNoFolder, "socket_no_folder"),
        Exit::Bind,
        "cannot listen on PATH: not found",
        "the folder does not exist",
        "the folder of PATH must exist: make it, or take another PATH",
    ),
    plain(
        (Symptom::SocketDenied, "socket_denied"),
        Exit::Bind,
        "cannot listen on PATH: permission denied",
        "the folder belongs to somebody else",
        "take a PATH in a folder that you may write to",
    ),
    plain(
        (Symptom::SocketTooLong, "socket_too_long"),
        Exit::Bind,
        "cannot listen on PATH: too long",
        "the system's limit for unix sockets",
        "take a shorter PATH: about 100 bytes are the limit",
    ),
    plain(
        (Symptom::NoRegion, "no_region"),
        Exit::Usage,
        "no region is known, or it is not the name of one",
        "no option, variable or profile names a region",
        "name a region with --region eu-west-1, AWS_REGION, or in the profile",
    ),
    plain(
        (Symptom::NoSuchProfile, "no_such_profile"),
        Exit::Usage,
        "there is no profile NAME",
        "neither the config file nor the credentials file has it",
        "`aws configure list-profiles` lists those there are; name one with --profile",
    ),
    plain(
        (Symptom::BrokenProfile, "broken_profile"),
        Exit::Usage,
        "the profile, or one that it needs, is not valid",
        "a key is missing or contradicts another one, or the file cannot be read",
        "correct the profile {profile} in the AWS configuration file, which is ~/.aws/config unless AWS_CONFIG_FILE \
         names another",
    ),
    plain(
        (Symptom::BadConfiguration, "bad_configuration"),
        Exit::Usage,
        "the AWS configuration cannot be used",
        "an endpoint that is no URL, a CA bundle without certificates, a proxy of an unknown kind",
        "correct --endpoint-url, or the variable or key of the profile that the message names",
    ),
    plain(
        (Symptom::NoCredentials, "no_credentials"),
        Exit::Credentials,
        "no credentials could be loaded",
        "none are in the environment, the profile or the role of this machine",
        "log in with `{login}`, or name a profile with --profile",
    ),
    plain(
        (Symptom::ExpiredLogin, "expired_login"),
        Exit::Credentials,
        "ExpiredToken, or the SSO token has expired",
        "the login or the keys behind the profile have expired",
        "log in again, as with `{login}`, or put new keys into the file they come from",
    ),
    plain(
        (Symptom::ExpiredEnvironment, "expired_environment"),
        Exit::Credentials,
        "ExpiredToken, with keys from the environment",
        "the temporary keys in AWS_ACCESS_KEY_ID and so on have expired",
        "the keys come from the environment (AWS_ACCESS_KEY_ID): set new ones, or name a profile with --profile",
    ),
    plain(
        (Symptom::WrongKeys, "wrong_keys"),
        Exit::Credentials,
        "UnrecognizedClient, InvalidClientTokenId, or the signature does not match",
        "the access key is not known, or its secret is another one",
        "check the access key and secret of the credentials",
    ),
    plain(
        (Symptom::MfaCode, "mfa_code"),
        Exit::Credentials,
        "the profile needs a code of the MFA device SERIAL, or that was not accepted",
        "a role of the profile has an mfa_serial, and there is no terminal to ask, or three codes were wrong",
        "start ssmfwd in a terminal, or give the code that the device shows now with SSMFWD_MFA_CODE or --mfa-code",
    ),
    plain(
        (Symptom::CredentialProcess, "credential_process"),
        Exit::Credentials,
        "no credentials could be loaded: the credential_process failed",
        "the program that the profile names cannot be run, failed, or printed something else",
        "run the credential_process of the profile {profile} by hand: it must print its answer as JSON",
    ),
    plain(
        (Symptom::WebIdentity, "web_identity"),
        Exit::Credentials,
        "InvalidIdentityToken, or the file of the web identity cannot be read",
        "there is no web identity that STS accepts for the role",
        "check the file of the web identity, whose token is good for a while only, and the trust policy of the role",
    ),
    plain(
        (Symptom::NoKeysHere, "no_keys_in_environment"),
        Exit::Credentials,
        "no credentials could be loaded: credential_source = Environment",
        "the profile wants the keys of the environment, and there are none",
        "the profile {profile} wants the keys of the environment: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    plain(
        (Symptom::RoleDenied, "role_denied"),
        Exit::Denied,
        "the role or account of the profile is not allowed to be used",
        "AssumeRole, or the IAM Identity Center assignment, is denied",
        "the trust policy of the role of profile {profile} must allow whoever assumes it, or the account and role must \
         be assigned to you",
    ),
    plain(
        (Symptom::ClockSkew, "clock_skew"),
        Exit::Failure,
        "Signature expired, Signature not yet current, RequestTimeTooSkewed",
        "the clock of this machine is wrong; the message says by how much",
        "set the clock of this machine: signatures are good for minutes",
    ),
    riddle(
        (Symptom::ApiUnresolved, "api_unresolved"),
        Exit::Failure,
        "the SSM API cannot be reached: its name has no address",
        "there is no such region, or this network's DNS does not know AWS",
        "check the network, its DNS, the region and --endpoint-url: {api} has no address here",
    ),
    riddle(
        (Symptom::ApiTls, "api_tls"),
        Exit::Failure,
        "the SSM API cannot be reached: invalid peer certificate, or no TLS",
        "the certificate is not trusted here, as behind a proxy that opens TLS, or what answers speaks no TLS",
        "check the network for a proxy that opens TLS, and have its authority trusted (AWS_CA_BUNDLE or SSL_CERT_FILE)",
    ),
    plain(
        (Symptom::ApiUnreachable, "api_unreachable"),
        Exit::Failure,
        "the SSM API cannot be reached, does not answer in time, or the exchange breaks off",
        "no way to it: a firewall, a missing proxy or VPC endpoint",
        "check the network, the region and --endpoint-url",
    ),
    plain(
        (Symptom::ProxyUnreachable, "proxy_unreachable"),
        Exit::Failure,
        "cannot connect to the proxy, or it opens no tunnel",
        "no way to the proxy that the environment names, or it is none",
        "check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY; NO_PROXY names hosts that are reached without",
    ),
    plain(
        (Symptom::ProxyRefused, "proxy_refused"),
        Exit::Failure,
        "the proxy refused a tunnel",
        "407: it wants a user and a password, or others; 403: its rules do not allow the host",
        "a user and a password go into the proxy's URL (http://USER:PASSWORD@HOST:PORT); the proxy must allow the hosts \
         ssm and ssmmessages of the region, port 443",
    ),
    plain(
        (Symptom::Throttled, "throttled"),
        Exit::Failure,
        "ThrottlingException: Rate exceeded",
        "too many calls of all users of the account together",
        "too many calls in this account: try again in a minute",
    ),
    plain(
        (Symptom::ServiceFailed, "service_failed"),
        Exit::Failure,
        "InternalServerError, or status 500 and above",
        "the service has trouble of its own",
        "try again in a minute; https://health.aws.amazon.com tells of trouble in a region",
    ),
    plain(
        (Symptom::BadAnswer, "bad_answer"),
        Exit::Failure,
        "an answer that cannot be read, or a StreamUrl that is not trusted",
        "something between here and AWS answers in its place",
        "check for a proxy or an --endpoint-url that answers in the place of AWS",
    ),
    plain(
        (Symptom::StartDenied, "start_denied"),
        Exit::Denied,
        "AccessDenied for StartSession: no policy allows it",
        "the policy lacks the target or the document: both are needed",
        "the policy must allow ssm:StartSession on {target-arn} and on {document-arn}",
    ),
    riddle(
        (Symptom::ExplicitDeny, "explicit_deny"),
        Exit::Denied,
        "AccessDenied with an explicit deny",
        "{a-policy} forbids {action} on {resource} (an explicit deny), which no other permission overrules",
        "ask whoever manages that policy: another Allow does not help",
    ),
    riddle(
        (Symptom::RemoteHostsForbidden, "remote_hosts_forbidden"),
        Exit::Denied,
        "AccessDenied with an explicit deny of AWS-StartPortForwardingSessionToRemoteHost",
        "{a-policy} forbids forwards to other hosts (an explicit deny of {document}), which no other permission \
         overrules",
        "forwards to ports of the target itself (LOCAL:PORT) use another document and may be allowed; or ask whoever \
         manages that policy",
    ),
    riddle(
        (Symptom::LimitedByPolicy, "limited_by_policy"),
        Exit::Denied,
        "AccessDenied: no session policy, permissions boundary, service control policy or VPC endpoint policy allows it",
        "{a-policy} limits what other policies can allow, and leaves out {action} on {resource}",
        "ask whoever manages it ({a-policy}): {action} must be allowed there too",
    ),
    passing(
        (Symptom::CallDenied, "call_denied"),
        "AccessDenied for ResumeSession or TerminateSession",
        "the policy does not allow it for the user's own sessions: a lost websocket costs the connections, and sessions \
         live until their idle timeout",
        "the policy must allow {action} on {session-arn}",
    ),
    riddle(
        (Symptom::DataChannelDenied, "data_channel_denied"),
        Exit::Denied,
        "the gateway refuses the websocket with status 403",
        "it accepts neither the signature nor an unsigned request",
        "the policy must allow ssmmessages:OpenDataChannel on {channel-arn}",
    ),
    plain(
        (Symptom::TargetNotConnected, "target_not_connected"),
        Exit::Target,
        "TargetNotConnected; why may not be asked (ssm:DescribeInstanceInformation)",
        "wrong id, account or region, or an agent that is not connected",
        "check the id, the account and the region {region}, and that the SSM agent of the target is online",
    ),
    riddle(
        (Symptom::TargetOffline, "target_offline"),
        Exit::Target,
        "TargetNotConnected, and SSM knows the node",
        "its agent (version {agent-version}) was last heard at {heard}: it, or the machine, has been offline since",
        "start {target} or its agent, and check that it still reaches the ssm and ssmmessages endpoints",
    ),
    riddle(
        (Symptom::TargetUnknown, "target_unknown"),
        Exit::Target,
        "TargetNotConnected, and SSM does not know the node",
        "no node of this account has registered in {region} under this id",
        "check the id, the account and the region {region}, and then the agent: it registers only with an instance role \
         that has AmazonSSMManagedInstanceCore, and a way to the ssm and ssmmessages endpoints",
    ),
    targets::TARGET_NOT_FOUND,
    targets::NODES_OFFLINE,
    targets::NO_CLUSTER,
    targets::NO_SERVICE,
    targets::NO_TASK,
    targets::EXEC_DISABLED,
    targets::NO_EXEC_AGENT,
    targets::NO_CONTAINER,
    targets::LOOKUP_DENIED,
    targets::TASKS_DENIED,
    plain(
        (Symptom::NoDocument, "no_document"),
        Exit::Target,
        "InvalidDocument",
        "there is no document {document} here, or it is not shared with this account",
        "the document must exist in this account and region, and be one for sessions",
    ),
    riddle(
        (Symptom::DocumentNotForSessions, "document_not_for_sessions"),
        Exit::Target,
        "InvalidDocument: the document type is not supported",
        "{document} is a document, but not one for sessions",
        "name a document of type Session with --document, or leave that out",
    ),
    plain(
        (Symptom::InvalidRequest, "invalid_request"),
        Exit::Target,
        "ValidationException, BadRequest",
        "a parameter that the document does not know, or a value that it does not allow",
        "check the target, the destination and every --parameter against the document",
    ),
    riddle(
        (Symptom::RemoteHostsUnsupported, "remote_hosts_unsupported"),
        Exit::Target,
        "BadRequest: port forwarding sessions to remote hosts are not supported",
        "the agent of the target is too old for forwards to other hosts",
        "update the SSM agent of {target} to 3.1.1188.0 or newer, or forward to ports of the target itself (LOCAL:PORT)",
    ),
    plain(
        (Symptom::SessionLimit, "session_limit"),
        Exit::Failure,
        "too many sessions",
        "the limit of the account, or of the target's agent, is reached",
        "end sessions that are not needed: `aws ssm describe-sessions --state Active` lists them",
    ),
    riddle(
        (Symptom::GatewayUnresolved, "gateway_unresolved"),
        Exit::Failure,
        "cannot resolve the name of the gateway, while the API works",
        "DNS knows ssm and not ssmmessages: the VPC endpoint or the private zone of one of the two is missing",
        "the data channel goes to {gateway}: give that name an address here (a VPC endpoint for ssmmessages, or DNS)",
    ),
    plain(
        (Symptom::GatewayUnreachable, "gateway_unreachable"),
        Exit::Failure,
        "cannot connect to the gateway, while the API works",
        "a firewall or a missing route",
        "the data channel goes to the ssmmessages endpoint, port 443: check firewall and proxy",
    ),
    plain(
        (Symptom::GatewayTls, "gateway_tls"),
        Exit::Failure,
        "TLS handshake with the gateway failed, while the API works",
        "its certificate is not trusted here, as behind a proxy that opens TLS, or what answers speaks no TLS",
        "a proxy or firewall that opens TLS must leave {gateway} alone, or its authority be trusted (AWS_CA_BUNDLE or \
         SSL_CERT_FILE)",
    ),
    plain(
        (Symptom::UpgradeRefused, "upgrade_refused"),
        Exit::Failure,
        "the gateway refuses the websocket with another status than 403",
        "429 and 5xx: the service is busy; others: something in between answers in its place",
        "try again in a minute; if it stays, a proxy between here and {gateway} may not let websockets through",
    ),
    plain(
        (Symptom::UpgradeBroken, "upgrade_broken"),
        Exit::Failure,
        "the websocket handshake with the gateway failed",
        "the connection broke off, or what came was no answer to it",
        "a proxy or firewall between here and {gateway} may not let websockets through",
    ),
    plain(
        (Symptom::AgentLate, "agent_late"),
        Exit::Failure,
        "timed out: the agent did not complete the handshake",
        "the agent is busy, was just restarted, or cannot reach ssmmessages",
        "allow more time with --connect-timeout, or see where it stops with -v",
    ),
    plain(
        (Symptom::NotReady, "not_ready"),
        Exit::Failure,
        "not ready within N s",
        "the calls and the dialling took longer than --connect-timeout",
        "allow more time with --connect-timeout, or see where it stops with -v",
    ),
    plain(
        (Symptom::AgentTooOld, "agent_too_old"),
        Exit::Target,
        "Plugin with name Port is not supported by this version of ssm agent",
        "the agent of the target is too old for port forwarding",
        "the agent refused: update the SSM agent of {target}, to 3.1.1188.0 or newer for other hosts",
    ),
    plain(
        (Symptom::ForbiddenAddress, "forbidden_address"),
        Exit::Target,
        "Forwarding to IP address ... is forbidden",
        "the agent forwards neither to the metadata service and other link-local services nor to the VPC's own addresses",
        "the agent refused: such addresses (metadata, DNS and time of the VPC) are on its deny list, which no option here \
         changes",
    ),
    riddle(
        (Symptom::HostUnresolved, "host_unresolved"),
        Exit::Target,
        "dial tcp: lookup HOST: no such host (status 8 with `doctor`)",
        "the target cannot resolve the name",
        "the agent refused: use a name that the target knows, or an address; names are resolved there, not here",
    ),
    plain(
        (Symptom::DestinationUnreachable, "destination_unreachable"),
        Exit::Target,
        "Unable to connect to specified port (status 8 with `doctor`)",
        "{destination} refused the connection, or cannot be reached from the target",
        "the agent refused: check that {destination} listens and lets the target in",
    ),
    plain(
        (Symptom::DestinationUnacknowledged, "destination_unacknowledged"),
        Exit::Failure,
        "timed out: the agent acknowledges no data (agents up to 3.0.196.0; status 8 with `doctor`)",
        "such agents fall silent when the destination refuses or does not answer",
        "check that the destination listens and is reachable from the target",
    ),
    riddle(
        (Symptom::EncryptionDenied, "encryption_denied"),
        Exit::Target,
        "Fetching data key failed",
        "the role of the target may not use the KMS key of the session preferences",
        "the agent refused: its role must allow kms:Decrypt on the key that Session Manager's preferences name",
    ),
    riddle(
        (Symptom::EncryptionAsked, "encryption_asked"),
        Exit::Target,
        "handshake failed: the client action KMSEncryption is not supported",
        "the agent wants this session encrypted with a KMS key, which ssmfwd cannot do; agents of AWS never ask for it \
         when ports are forwarded",
        "the agent refused to go on without encryption: use a document of session type Port",
    ),
    riddle(
        (Symptom::NotAPortSession, "not_a_port_session"),
        Exit::Target,
        "handshake failed: sessions of type TYPE are not for port forwarding",
        "{document} starts a shell or a command",
        "the agent refused nothing, the document is another kind: name one of session type Port with --document",
    ),
    plain(
        (Symptom::AgentFailed, "agent_failed"),
        Exit::Target,
        "the agent ends the session with another text",
        "what it says",
        "the agent refused: its version, the document or the destination does not allow this",
    ),
    plain(
        (Symptom::EndedEarly, "ended_early"),
        Exit::Lost,
        "the session ended before it was ready (by the Session Manager service)",
        "an administrator, or a policy",
        "try again; if it stays, ask whoever administers Session Manager in this account",
    ),
    plain(
        (Symptom::SessionGone, "session_gone"),
        Exit::Lost,
        "DoesNotExist",
        "the service has forgotten the session",
        "try again",
    ),
    riddle(
        (Symptom::DestinationRefused, "destination_refused"),
        Exit::Destination,
        "DESTINATION refused a connection (status 8 with `doctor`; a forward goes on)",
        "the target cannot connect there: nothing listens, or the target cannot resolve the name",
        "check on the target that {destination} listens and that its name resolves there: agents do not say which it is",
    ),
    riddle(
        (Symptom::DestinationSilent, "destination_silent"),
        Exit::Destination,
        "DESTINATION does not answer (status 8 with `doctor`; a forward goes on)",
        "the target's attempt to connect gets no answer",
        "check the security group and the network between the target and {destination}",
    ),
    passing(
        (Symptom::OneConnection, "one_connection"),
        "the agent carries one connection at a time",
        "agents up to 3.0.196.0 do not multiplex",
        "update the SSM agent of {target}, or give the forward several sessions with --sessions",
    ),
    passing(
        (Symptom::IdleTimeout, "idle_timeout"),
        "dormant: Your session timed out due to inactivity",
        "no data flowed for the idle timeout of the account's preferences (20 min unless they say otherwise)",
        "the next connection starts a new session; --keep-alive keeps idle ones, if the policy allows that",
    ),
    passing(
        (Symptom::MaxDuration, "max_duration"),
        "dormant: the session reached its maximum duration",
        "the account's preferences end every session at that age, busy or not; --keep-alive does not help",
        "the next connection starts a new session; the limit is one of Session Manager's preferences",
    ),
    passing(
        (Symptom::SessionOver, "session_over"),
        "dormant: the session is over, and nobody says why",
        "idle timeout, maximum duration or an administrator, while the websocket was away",
        "the next connection starts a new session",
    ),
    passing(
        (Symptom::UnsignedUpgrade, "unsigned_upgrade"),
        "the data channel was opened unsigned",
        "the gateway refused the signature and accepted none",
        "the policy should allow ssmmessages:OpenDataChannel on {channel-arn}: AWS may stop accepting unsigned ones",
    ),
];
