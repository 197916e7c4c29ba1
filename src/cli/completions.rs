//! `ssmfwd completions`: what a shell needs to complete our command line.

use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use super::{args::Args, reporter::Reporter};

/// What only this command takes.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(super) const MANUAL: &str = "\
Examples:
  bash, for this user (needs the package bash-completion):
    ssmfwd completions bash > ~/.local/share/bash-completion/completions/ssmfwd

  zsh, in a folder of $fpath:
    ssmfwd completions zsh > ~/.zfunc/_ssmfwd

  fish:
    ssmfwd completions fish > ~/.config/fish/completions/ssmfwd.fish

  PowerShell, in $PROFILE:
    ssmfwd completions powershell | Out-String | Invoke-Expression";

/// Writes the script to stdout.
pub(super) async fn run(CompletionsArgs { shell }: &CompletionsArgs, reporter: &std::sync::Arc<Reporter>) {
    reporter.data(script(*shell));
    reporter.written().await;
}

/// The script, without its last newline.
fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    generate(shell, &mut Args::command(), "ssmfwd", &mut script);
    String::from_utf8_lossy(&script).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_option_and_command_can_be_completed() {
        let command = Args::command();
        for shell in Shell::value_variants() {
            let script = script(*shell);
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let Some(long) = argument.get_long() else { continue };
                assert!(script.contains(long), "{shell}: --{long}");
            }
            for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
    }
}
