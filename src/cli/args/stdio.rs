//! `ssmfwd stdio`: what only this command takes. Its options are those of a FORWARD that concern a session and a
//! connection, which the definition adds.

use clap::Args;

pub(super) const ABOUT: &str = "\
Carry one connection between stdin and stdout and a port of the target, or with HOST a port that the target can reach. \
Made for OpenSSH's ProxyCommand. stdout has the bytes of the connection and nothing else; stderr has warnings and \
errors, and with -v what happens.";

pub(super) const MANUAL: &str = "\
In ~/.ssh/config, for ssh and all that runs over it (scp, sftp, rsync, git, VS Code):

    Host i-* mi-*
        ProxyCommand ssmfwd stdio %p --target %h

    Host bastion
        User ec2-user
        ProxyCommand ssmfwd stdio %p --target name:bastion --profile dev

    Host *.internal
        ProxyCommand ssmfwd stdio %h:%p --target name:bastion

When the destination ends, all that it sent is delivered and the exit status is 0. When stdin ends, all that it held is \
delivered, and a reply is waited for as --linger says. When stdout is closed, that is the end at once. The SSM session \
is always ended. Status 7: the session was lost, or not back within --reconnect-window. Status 8: the destination \
refused, did not answer within --connect-timeout, or hung up before a byte had passed.

Examples:
    ssh -o 'ProxyCommand ssmfwd stdio %p --target %h' ec2-user@i-0123456789abcdef0
    ssmfwd stdio db.internal:6379 --target name:bastion < commands > replies";

/// The options of a FORWARD that mean nothing here: they are about listeners, several connections, or who waits for
/// them.
pub(super) const NOT_TAKEN: [&str; 9] =
    ["sessions", "max-connections", "lazy", "idle-close", "drain", "wait", "no-wait", "ready-fd", "admin"];

/// Of `--target`, in place of what it says elsewhere: stdin is somebody else's, so nobody is asked for one.
pub(super) const TARGET: &str = "The target: i-…, mi-…, ecs:CLUSTER_TASK_RUNTIME, ecs:CLUSTER/SERVICE[/CONTAINER], \
    name:NAME (or a name alone), tag:KEY=VALUE; in ssh_config %h";

/// The same of others, where there is no FORWARD and nothing takes the session's place.
pub(super) const DOCUMENT: &str = "The session document, instead of the one that the destination calls for";
pub(super) const RECONNECT_WINDOW: &str =
    "How long the session may be without a websocket until the connection is over";
pub(super) const STALL_TIMEOUT: &str = "How long nothing may be heard from the agent until the session is over";

/// One connection.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct StdioArgs {
    /// The destination: a port of the target itself, or HOST:PORT as the target sees it
    #[arg(value_name = "[HOST:]PORT")]
    pub(in crate::cli) destination: String,
}
