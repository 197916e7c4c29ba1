//! What is installed beside the program: completions that their shells read, and a manual page that is set without a
//! warning.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use super::{
    program::{client, output, write},
    tunnel::programs,
};

fn made_by(arguments: &[&str]) -> Vec<u8> {
    output(Command::new(programs().join("ssmfwd")).env_clear().args(arguments))
}

/// A file of what `ssmfwd completions` prints, and its text.
fn completions(shell: &str, folder: &Path) -> (std::path::PathBuf, String) {
    let script = made_by(&["completions", shell]);
    let text = String::from_utf8(script).expect("UTF-8");
    assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{shell}");
    let file = folder.join(shell);
    write(&file, &text);
    (file, text)
}

#[test]
fn shells_read_their_completions_and_complete() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let (bash, _) = completions("bash", folder.path());
    output(client("bash", "bash").arg("-n").arg(&bash));
    let complete =
        r#"source "$1"; COMP_WORDS=(ssmfwd --reg); COMP_CWORD=1; _ssmfwd ssmfwd --reg ssmfwd; echo "${COMPREPLY[@]}""#;
    let completed = output(client("bash", "bash").args(["-c", complete, "bash"]).arg(&bash));
    assert_eq!(String::from_utf8_lossy(&completed).trim(), "--region");

    let (zsh, _) = completions("zsh", folder.path());
    output(client("zsh", "zsh").arg("-n").arg(&zsh));

    let (fish, _) = completions("fish", folder.path());
    output(client("fish", "fish").arg("--no-execute").arg(&fish));
    let complete = r#"source $argv[1]; complete --do-complete "ssmfwd --reg""#;
    let completed = output(client("fish", "fish").args(["--no-config", "-c", complete]).arg(&fish));
    assert!(String::from_utf8_lossy(&completed).contains("--region"), "{completed:?}");

    // There is no PowerShell here: that it is one is all that can be said.
    let (_, script) = completions("powershell", folder.path());
    assert!(script.contains("Register-ArgumentCompleter"));
}

#[test]
fn the_manual_page_is_set_without_a_warning() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let page = folder.path().join("ssmfwd.1");
    write(&page, made_by(&["man"]));
    for (device, width) in [("utf8", "80"), ("ascii", "120")] {
        let mut groff = client("groff", "groff");
        groff.args(["-man", "-ww", "-P-cbou", &format!("-T{device}"), &format!("-rLL={width}n")]).arg(&page);
        let set = groff.stdin(Stdio::null()).output().expect("it can be started");
        assert!(set.status.success() && set.stderr.is_empty(), "{}", String::from_utf8_lossy(&set.stderr));
        let text = String::from_utf8_lossy(&set.stdout);
        for expected in ["SYNOPSIS", "SSMFWD_RECONNECT_WINDOW", "ssmfwd login", "EXIT STATUS"] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
}
