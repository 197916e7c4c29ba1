//! The same for shells that are sealed: by our own command, and in the place of session-manager-plugin.

use super::{credentials::LEVELS, has_none, keys, members};
use crate::{
    harness::{ApiRelay, Program, World},
    plugin::Caller,
};

/// What writes something that is in no argument.
const COMMAND: &str = "echo PAYLOAD-MARKER-$((4700+11))";

#[tokio::test]
async fn a_sealed_shell_tells_neither_its_key_nor_its_token() {
    for in_place in [false, true] {
        for (level, options) in LEVELS {
            let world = World::with(|config| config.kms_key = Some("alias/sessions".into()));
            let relay = ApiRelay::to(&world.emulator).await;
            let document = "AWS-StartInteractiveCommand";
            let mut secrets = keys(&world);
            let mut caller = None;
            let mut command = if in_place {
                let caller = caller.insert(Caller::of(&world, Some(document), &[("command", COMMAND)]).await);
                secrets.push(("the token", caller.answer["TokenValue"].as_str().expect("a text").to_owned()));
                let url = caller.answer["StreamUrl"].as_str().expect("a text");
                let url = url.replace(world.emulator.endpoint_url().trim_start_matches("http"), &relay.url[4..]);
                caller.answer["StreamUrl"] = url.into();
                let mut arguments = caller.arguments();
                arguments[5].clone_from(&relay.url);
                let mut command = caller.command(&world, &arguments);
                // What the options are otherwise.
                let has = |option| options.contains(&option);
                command.env("SSMFWD_VERBOSE", if has("-vv") { "2" } else { "0" });
                command.env("SSMFWD_OUTPUT", if has("--output") { "json" } else { "text" });
                command.env("SSMFWD_LOG_FORMAT", if has("--log-format") { "json" } else { "text" });
                command
            } else {
                let parameter = format!("command={COMMAND}");
                let words = ["shell", "-t", World::TARGET, "--document", document, "--parameter", &parameter];
                world.command(&[&words[..], options].concat())
            };
            command.env("AWS_ENDPOINT_URL", &relay.url).env("RUST_LOG", level);
            let ended = Program::start(command).exit().await.expect_status(0);
            drop(caller);
            assert!(ended.stdout.contains("PAYLOAD-MARKER-4711"), "{}", ended.stdout);
            assert!(ended.stderr.lines().count() > 5, "nothing was logged:\n{}", ended.stderr);

            let seen = relay.seen().await;
            let of = |name| members(&seen, name);
            let (plaintexts, blobs) = (of("Plaintext"), of("CiphertextBlob"));
            let ([plaintext], [_]) = (&plaintexts[..], &blobs[..]) else { panic!("{plaintexts:?} {blobs:?}") };
            assert!(plaintext.len() > 80, "{plaintext}");
            secrets.push(("the data key", plaintext.clone()));
            secrets.push(("the data key", plaintext[..20].to_owned()));
            secrets.extend(of("TokenValue").into_iter().map(|token| ("a token", token)));
            let cells = seen.split("cell-number=").skip(1).map(|rest| rest.chars().take(20).collect());
            secrets.extend(cells.map(|cell| ("a StreamUrl's query", cell)));
            let signatures = seen.split("Signature=").skip(1).map(|rest| rest.chars().take(64).collect());
            secrets.extend(signatures.map(|signature| ("a signature", signature)));
            for what in ["the data key", "a StreamUrl's query", "a signature"] {
                assert!(secrets.iter().any(|(known, _)| *known == what), "nothing to look for: {what}");
            }
            has_none(&format!("{}\n{}", ended.stdout, ended.stderr), &secrets);
            has_none(&ended.stderr, &[("the payload", "PAYLOAD-MARKER-4711".to_owned())]);
            world.settled().await;
        }
    }
}
