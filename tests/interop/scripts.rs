//! Shell scripts as supervisors: they start `ssmfwd` in the background, work when it is ready, and end it.

use std::process::Output;

use super::{
    exec::Project,
    postgresql::{Server, USER},
    program::client,
    tunnel::programs,
};

/// Runs a script with `$SSMFWD` and the variables of psql.
fn run(shell: &str, project: &Project, script: &str) -> Output {
    let mut command = client(shell, shell);
    project.lead(&mut command).args(["-c", script]);
    command.env("SSMFWD", programs().join("ssmfwd")).env("PGUSER", USER).env("PGDATABASE", "postgres");
    command.output().expect("it can be started")
}

#[track_caller]
fn check(output: &Output, status: i32, stdout: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*String::from_utf8_lossy(&output.stdout)), (Some(status), stdout), "{stderr}");
}

/// The line of `--ready-fd` from a process substitution, the status from its number.
const IN_BASH: &str = r#"
    exec 3< <(exec "$SSMFWD" up db --ready-fd 4 4>&1 >/dev/null); ssmfwd=$!
    read -r address <&3 || { wait "$ssmfwd"; status=$?; echo "not ready: $status"; exit "$status"; }
    for number in 1 2 3; do
        psql -h "${address%:*}" -p "${address##*:}" --no-psqlrc -qtA -c "SELECT $number * 7" || exit 99
    done
    kill "$ssmfwd"; wait "$ssmfwd"; echo "status $?"
"#;

#[test]
fn a_bash_script_works_when_it_is_ready() {
    let server = Server::start();
    let project = Project::to(server.port);
    check(&run("bash", &project, IN_BASH), 0, "7\n14\n21\nstatus 143\n");
    project.end(1);
    server.end();
}

#[test]
fn a_bash_script_learns_why_it_is_not_ready() {
    let project = Project::new(&["--offline"], "0:127.0.0.1:1");
    check(&run("bash", &project, IN_BASH), 6, "not ready: 6\n");
    project.end(0);
}

/// Any POSIX shell: a named pipe, and a trap that leaves nothing behind whatever becomes of the work.
#[test]
fn a_script_whose_work_fails_leaves_nothing_behind() {
    let server = Server::start();
    let project = Project::to(server.port);
    let script = r#"
        set -e
        mkfifo ready
        "$SSMFWD" up db --ready-fd 3 3>ready >/dev/null & ssmfwd=$!
        trap 'kill "$ssmfwd"; wait "$ssmfwd" || echo "status $?"' EXIT
        read -r address <ready
        psql -h "${address%:*}" -p "${address##*:}" --no-psqlrc -qtA -c 'SELECT 42' -c 'SELECT 1 / 0'
        echo 'not reached'
    "#;
    check(&run("sh", &project, script), 1, "42\nstatus 143\n");
    project.end(1);
    server.end();
}
