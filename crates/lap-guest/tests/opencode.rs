//! The real opencode against the scripted gateway.

mod kit;

use kit::{Guest, answer, boot, failure, git, phases, said, text, tools};
use lap_api::event::DeltaKind;
use lap_api::link::{GuestBoot, Report, SkillFile, ToGuest};
use lap_api::message::Attachment;
use lap_test::gateway::Gateway;

async fn place() -> (Guest, Gateway, GuestBoot) {
    kit::place("opencode", "anthropic/claude-test").await
}

#[tokio::test]
async fn turns_tools_images_and_the_prompt_reach_the_model_and_back() {
    let (mut guest, gateway, boot) = place().await;
    let skills = vec![SkillFile {
        slug: "brewing".to_owned(),
        content: "---\nname: brewing\ndescription: How to brew tea\n---\nBoil water.".to_owned(),
    }];
    std::fs::create_dir_all(guest.layout.repo()).expect("a folder");
    git(&guest.layout.repo(), &["init", "-q"]);
    let reports = guest.boot(GuestBoot { skills, ..boot }).await;
    assert_eq!(phases(&reports)[2..], ["waiting_harness", "harness_listening", "harness_ready"]);
    guest.until(|report| matches!(report, Report::Conversation { .. })).await;

    let reports = guest.run("t1", "[[think:let me see]][[say:I look. ]][[bash:echo hello; pwd]]").await;
    assert!(matches!(&reports[0], Report::TurnStarted { turn_id } if turn_id == "t1"));
    assert_eq!(said(&reports, DeltaKind::Reasoning), "let me see");
    let end = format!("DONE: hello\n{}", guest.layout.repo().display());
    assert_eq!(said(&reports, DeltaKind::Text), format!("I look. {end}"));
    assert_eq!(answer(&reports), end);
    let calls = tools(&reports);
    let last = calls.last().expect("a tool call");
    assert_eq!((last.tool.as_str(), last.status.as_str()), ("bash", "completed"));
    assert_eq!(last.title.as_deref(), Some("echo hello; pwd"));
    assert_eq!(last.output.as_deref(), Some(format!("hello\n{}\n", guest.layout.repo().display()).as_str()));
    let messages: Vec<String> = reports
        .iter()
        .filter_map(|report| match report {
            Report::MessageCompleted { message, .. } => Some(text(message)),
            _ => None,
        })
        .collect();
    assert_eq!(messages, ["I look. ".to_owned(), end]);
    let Some(Report::TurnCompleted { usage, .. }) = reports.last() else { panic!("checked above") };
    assert!(usage.input_tokens > 0 && usage.output_tokens > 0, "{usage:?}");

    assert_eq!(
        answer(&guest.run("t2", "[[sys:You are the LAP test agent.]]").await),
        "SYS You are the LAP test agent.: yes"
    );
    assert_eq!(answer(&guest.run("t3", "[[sys:How to brew tea]]").await), "SYS How to brew tea: yes");
    let dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    let image = Attachment { name: "a.png".to_owned(), content_type: "image/png".to_owned(), content: dot.to_owned() };
    guest.turn_with("t4", "[[images]]", vec![image]).await;
    let seen = answer(&guest.end("t4").await);
    assert!(seen.starts_with("IMAGES: 1"), "{seen}");

    assert_eq!(git(&guest.layout.repo(), &["status", "--porcelain"]), "");
    // No side call for a title: four turns, five answers.
    assert_eq!(gateway.requests().iter().filter(|request| request.method == "POST").count(), 5);
    guest.close().await;
}

#[tokio::test]
async fn another_protocol_for_other_models() {
    let (mut guest, gateway, boot) = place().await;
    guest.boot(GuestBoot { model: "openai/gpt-test".to_owned(), ..boot }).await;
    assert_eq!(answer(&guest.run("t1", "[[say:hi]]").await), "hi");
    let paths: Vec<String> = gateway.requests().iter().filter(|r| r.method == "POST").map(|r| r.path.clone()).collect();
    assert_eq!(paths, ["/v1/chat/completions"]);
    guest.close().await;
}

#[tokio::test]
async fn an_abort_stops_the_turn_and_the_next_one_is_itself() {
    let (mut guest, gateway, boot) = place().await;
    guest.boot(boot).await;
    guest.turn("t1", "[[say:half ]][[hold:gate]][[say:never]]").await;
    guest.until(|report| matches!(report, Report::Delta { .. })).await;
    gateway.wait_until_held("gate").await;
    guest.send(ToGuest::Abort { turn_id: "t1".to_owned() }).await;
    assert_eq!(failure(&guest.end("t1").await).0, "aborted");
    assert_eq!(answer(&guest.run("t2", "[[say:fresh]]").await), "fresh");
    // An abort that overtakes the message's first step.
    guest.turn("t3", "[[hold:gate2]][[say:never]]").await;
    guest.send(ToGuest::Abort { turn_id: "t3".to_owned() }).await;
    assert_eq!(failure(&guest.end("t3").await).0, "aborted");
    // And one in the middle of a tool.
    guest.turn("t4", "[[bash:echo begun; sleep 1000]]").await;
    guest.until(|report| matches!(report, Report::Tool { call, .. } if call.status == "running")).await;
    guest.send(ToGuest::Abort { turn_id: "t4".to_owned() }).await;
    let reports = guest.end("t4").await;
    assert_eq!(failure(&reports).0, "aborted");
    assert_ne!(tools(&reports).last().map(|call| call.status.as_str()), Some("running"));
    assert_eq!(answer(&guest.run("t5", "[[say:done]]").await), "done");
    guest.close().await;
}

#[tokio::test]
async fn an_abort_before_the_first_step_leaves_nothing_running() {
    let (mut guest, _gateway, boot) = place().await;
    guest.boot(boot).await;
    guest.turn("t1", "[[bash:touch ghost]]").await;
    guest.send(ToGuest::Abort { turn_id: "t1".to_owned() }).await;
    assert_eq!(failure(&guest.end("t1").await).0, "aborted");
    assert_eq!(answer(&guest.run("t2", "[[bash:ls]]").await), "DONE: (no output)");
    guest.close().await;
}

#[tokio::test]
async fn errors_of_the_model_fail_the_turn_with_a_sentence() {
    let (mut guest, _gateway, boot) = place().await;
    guest.boot(boot).await;
    for (turn, status, words) in [
        ("t1", 401, "refused the key"),
        ("t2", 400, "refused the request (400)"),
        ("t3", 404, "does not know the model"),
    ] {
        let (code, error) = failure(&guest.run(turn, &format!("[[error:{status}]]")).await);
        assert_eq!(code, "harness_failed");
        assert!(error.contains(words), "{error}");
    }
    // A short failure is survived by asking again.
    assert_eq!(answer(&guest.run("t4", "[[error:500 1]][[say:back]]").await), "back");
    guest.close().await;
}

#[tokio::test]
async fn a_killed_opencode_fails_its_turn_and_comes_back_with_the_conversation() {
    let (mut guest, gateway, boot) = place().await;
    let first = guest.converse(boot.clone()).await;
    guest.run("t1", "remember [[say:noted]]").await;
    guest.turn("t2", "[[say:half]][[hold:gate]]").await;
    gateway.wait_until_held("gate").await;
    guest.kill_program("serve");
    let (code, error) = failure(&guest.end("t2").await);
    assert_eq!(code, "harness_failed");
    assert!(error.contains("opencode was killed"), "{error}");
    let exits = guest.until(|report| matches!(report, Report::HarnessExited { .. })).await;
    assert!(matches!(exits.last(), Some(Report::HarnessExited { restarting: true, .. })));
    let calls = gateway.calls().len();
    let seen = answer(&guest.run("t3", "[[recall]]").await);
    assert!(seen.contains("remember"), "{seen}");
    assert_eq!(gateway.calls().len(), calls + 1, "no turn is sent again");

    // Once more while nothing runs.
    guest.kill_program("serve");
    guest.until(|report| matches!(report, Report::HarnessExited { .. })).await;
    assert_eq!(answer(&guest.run("t4", "[[say:here]]").await), "here");

    // And in a new sandbox on the same files.
    let root = guest.close().await;
    let mut guest = Guest::start_in(root).await;
    let again = guest.converse(GuestBoot { resume: Some(first.clone()), ..boot }).await;
    assert_eq!(again, first);
    let seen = answer(&guest.run("t5", "[[recall]]").await);
    assert!(seen.contains("remember"), "{seen}");
    guest.close().await;
}

#[tokio::test]
async fn in_mode_ask_a_person_decides() {
    let (mut guest, _gateway, boot) = place().await;
    guest.boot(GuestBoot { permission_mode: "ask".to_owned(), ..boot }).await;
    for (turn, decision, status) in [("t1", "deny", "failed"), ("t2", "allow", "completed")] {
        guest.turn(turn, "[[bash:touch asked]]").await;
        let asked = guest.until(|report| matches!(report, Report::PermissionRequested { .. })).await;
        let Some(Report::PermissionRequested { request_id, title, input, .. }) = asked.last() else { panic!() };
        assert_eq!(title, "bash: touch asked");
        assert_eq!(input["command"], "touch asked");
        assert!(!guest.layout.repo().join("asked").exists());
        let (request_id, decision) = (request_id.clone(), decision.to_owned());
        guest.send(ToGuest::Permission { request_id, decision }).await;
        let reports = guest.end(turn).await;
        assert_eq!(tools(&reports).last().map(|call| call.status.as_str()), Some(status));
    }
    assert!(guest.layout.repo().join("asked").exists());
    guest.close().await;
}

#[tokio::test]
async fn in_mode_deny_nothing_is_changed() {
    let (mut guest, _gateway, boot) = place().await;
    guest.boot(GuestBoot { permission_mode: "deny".to_owned(), ..boot }).await;
    guest.run("t1", "[[bash:touch made]]").await;
    assert!(!guest.layout.repo().join("made").exists());
    guest.close().await;
}

#[tokio::test]
async fn a_program_that_is_none_fails_bring_up() {
    let mut guest = Guest::start().await;
    let mut boot = boot();
    boot.harness.adapter = "opencode-serve".to_owned();
    boot.harness.command = vec!["/bin/false".to_owned()];
    let (code, reason) = guest.boot_fails(boot).await;
    assert_eq!(code, "harness_failed");
    assert!(reason.contains("ended with status 1"), "{reason}");
    guest.close().await;
}

#[tokio::test]
async fn a_configuration_that_opencode_does_not_read_fails_turns_in_words() {
    let (mut guest, _gateway, boot) = place().await;
    std::fs::create_dir_all(guest.layout.repo()).expect("a folder");
    let config = guest.layout.repo().join("opencode.json");
    std::fs::write(&config, "{\"model\": 5}").expect("a file");
    guest.boot(boot).await;
    guest.turn("t1", "[[say:hello]]").await;
    let (code, error) = failure(&guest.end("t1").await);
    assert_eq!(code, "harness_failed");
    assert!(error.contains("opencode.json"), "{error}");
    guest.close().await;
}
