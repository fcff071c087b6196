//! The real Codex against the scripted gateway.

mod kit;

use kit::{Guest, answer, failure, git, phases, said, text, tools};
use lap_api::event::DeltaKind;
use lap_api::link::{GuestBoot, Report, SkillFile, ToGuest};
use lap_api::message::Attachment;
use lap_test::gateway::Gateway;

async fn place() -> (Guest, Gateway, GuestBoot) {
    kit::place("codex", "gpt-5.5").await
}

#[tokio::test]
async fn turns_tools_images_and_the_prompt_reach_the_model_and_back() {
    let (mut guest, gateway, boot) = place().await;
    let skills = vec![SkillFile {
        slug: "brewing".to_owned(),
        content: "---\nname: brewing\ndescription: How to brew tea\n---\nBoil water.".to_owned(),
    }];
    let reports = guest.boot(GuestBoot { skills, ..boot }).await;
    guest.until(|report| matches!(report, Report::Conversation { .. })).await;
    assert_eq!(phases(&reports)[2..], ["waiting_harness", "harness_listening", "harness_ready"]);
    assert_eq!(gateway.requests().len(), 0, "nothing is asked before somebody asks");

    let reports = guest.run("t1", "[[think:let me see]][[say:I look. ]][[bash:echo hello; pwd]]").await;
    assert!(matches!(&reports[0], Report::TurnStarted { turn_id } if turn_id == "t1"));
    assert_eq!(said(&reports, DeltaKind::Reasoning), "let me see");
    let output = format!("hello\n{}\n", guest.layout.repo().display());
    let end = answer(&reports);
    // Codex tells the model more of a command than its output.
    assert!(end.starts_with("DONE: ") && end.ends_with(output.trim_end()), "{end}");
    assert_eq!(said(&reports, DeltaKind::Text), format!("I look. {end}"));
    let calls = tools(&reports);
    let last = calls.last().expect("a tool call");
    assert_eq!((last.tool.as_str(), last.status.as_str()), ("shell", "completed"));
    assert_eq!(last.title.as_deref(), Some("echo hello; pwd"));
    assert_eq!(last.output.as_deref(), Some(output.as_str()));
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

    let prompt = answer(&guest.run("t2", "[[sys:You are the LAP test agent.]]").await);
    assert_eq!(prompt, "SYS You are the LAP test agent.: yes");
    assert_eq!(answer(&guest.run("t3", "[[sys:How to brew tea]]").await), "SYS How to brew tea: yes");
    let dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    let image = Attachment { name: "a.png".to_owned(), content_type: "image/png".to_owned(), content: dot.to_owned() };
    guest.turn_with("t4", "[[images]]", vec![image]).await;
    let seen = answer(&guest.end("t4").await);
    assert!(seen.starts_with("IMAGES: 1"), "{seen}");
    assert_eq!(git(&guest.layout.repo(), &["status", "--porcelain"]), "");

    let calls = gateway.requests();
    assert!(calls.iter().all(|call| call.path == "/v1/responses"));
    assert!(calls.iter().filter_map(|call| call.ask.as_ref()).all(|ask| ask.model == "gpt-5.5"));
    assert!(gateway.calls().iter().all(|ask| !ask.tools.iter().any(|tool| tool == "web_search")));
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
    // One that overtakes the message's first step.
    guest.turn("t3", "[[slow:500]][[bash:touch ghost]]").await;
    guest.send(ToGuest::Abort { turn_id: "t3".to_owned() }).await;
    assert_eq!(failure(&guest.end("t3").await).0, "aborted");
    // And one in the middle of a tool.
    guest.turn("t4", "[[bash:echo begun; sleep 1000]]").await;
    guest.until(|report| matches!(report, Report::Tool { call, .. } if call.status == "running")).await;
    guest.send(ToGuest::Abort { turn_id: "t4".to_owned() }).await;
    let reports = guest.end("t4").await;
    assert_eq!(failure(&reports).0, "aborted");
    assert_eq!(tools(&reports).last().map(|call| call.status.as_str()), Some("failed"));
    let reports = guest.run("t5", "[[bash:ls]]").await;
    assert_eq!(tools(&reports).last().and_then(|call| call.output.as_deref()), Some(""));
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
        ("t4", 500, "failed (500)"),
    ] {
        let (code, error) = failure(&guest.run(turn, &format!("[[error:{status}]]")).await);
        assert_eq!(code, "harness_failed");
        assert!(error.contains(words), "{error}");
    }
    // A short failure is survived by asking again.
    assert_eq!(answer(&guest.run("t5", "[[error:500 1]][[say:back]]").await), "back");
    guest.close().await;
}

#[tokio::test]
async fn a_killed_codex_fails_its_turn_and_comes_back_with_the_conversation() {
    let (mut guest, gateway, boot) = place().await;
    let first = guest.converse(boot.clone()).await;
    guest.run("t1", "remember [[say:noted]]").await;
    guest.turn("t2", "[[say:half]][[hold:gate]]").await;
    gateway.wait_until_held("gate").await;
    guest.kill_program("app-server");
    let (code, error) = failure(&guest.end("t2").await);
    assert_eq!(code, "harness_failed");
    assert!(error.contains("Codex was killed"), "{error}");
    let exits = guest.until(|report| matches!(report, Report::HarnessExited { .. })).await;
    assert!(matches!(exits.last(), Some(Report::HarnessExited { restarting: true, .. })));
    let calls = gateway.calls().len();
    let seen = answer(&guest.run("t3", "[[recall]]").await);
    assert!(seen.contains("remember"), "{seen}");
    assert_eq!(gateway.calls().len(), calls + 1, "no turn is sent again");

    // And in a new sandbox on the same files, where the agent has a new prompt.
    let root = guest.close().await;
    let mut guest = Guest::start_in(root).await;
    let prompt = Some("You are another agent.".to_owned());
    let again = guest.converse(GuestBoot { resume: Some(first.clone()), prompt, ..boot }).await;
    assert_eq!(again, first);
    let seen = answer(&guest.run("t5", "[[recall]]").await);
    assert!(seen.contains("remember"), "{seen}");
    let seen = answer(&guest.run("t6", "[[sys:You are another agent.]]").await);
    assert_eq!(seen, "SYS You are another agent.: yes");
    guest.close().await;
}

#[tokio::test]
async fn before_the_first_message_there_is_nothing_to_lose() {
    let (mut guest, _gateway, boot) = place().await;
    guest.boot(boot).await;
    guest.kill_program("app-server");
    guest.until(|report| matches!(report, Report::HarnessExited { .. })).await;
    assert_eq!(answer(&guest.run("t1", "[[say:here]]").await), "here");
    guest.close().await;
}

#[tokio::test]
async fn in_mode_ask_a_person_decides() {
    let (mut guest, _gateway, boot) = place().await;
    guest.boot(GuestBoot { permission_mode: "ask".to_owned(), ..boot }).await;
    for (turn, decision, status) in
        [("t1", "deny", "failed"), ("t2", "allow", "completed"), ("t3", "allow_always", "completed")]
    {
        guest.turn(turn, "[[bash:touch asked]]").await;
        let asked = guest.until(|report| matches!(report, Report::PermissionRequested { .. })).await;
        let Some(Report::PermissionRequested { request_id, title, input, .. }) = asked.last() else { panic!() };
        assert_eq!(title, "shell: touch asked");
        assert_eq!(input["command"], "touch asked");
        assert!(turn == "t3" || !guest.layout.repo().join("asked").exists());
        let (request_id, decision) = (request_id.clone(), decision.to_owned());
        guest.send(ToGuest::Permission { request_id, decision }).await;
        let reports = guest.end(turn).await;
        assert_eq!(tools(&reports).last().map(|call| call.status.as_str()), Some(status));
    }
    assert!(guest.layout.repo().join("asked").exists());
    // From now on nobody is asked, and the repository has no file that says so.
    let reports = guest.run("t4", "[[bash:touch asked]]").await;
    assert!(!reports.iter().any(|report| matches!(report, Report::PermissionRequested { .. })));
    assert_eq!(git(&guest.layout.repo(), &["status", "--porcelain"]), "?? asked");
    // A question ends with its turn.
    guest.turn("t5", "[[bash:touch another]]").await;
    guest.until(|report| matches!(report, Report::PermissionRequested { .. })).await;
    guest.send(ToGuest::Abort { turn_id: "t5".to_owned() }).await;
    assert_eq!(failure(&guest.end("t5").await).0, "aborted");
    assert_eq!(answer(&guest.run("t6", "[[say:here]]").await), "here");
    guest.close().await;
}

#[tokio::test]
async fn a_change_of_a_file_is_asked_for_too() {
    let (mut guest, _gateway, boot) = place().await;
    guest.boot(GuestBoot { permission_mode: "ask".to_owned(), ..boot }).await;
    let patch = "*** Begin Patch\n*** Add File: made.txt\n+hello\n*** End Patch\n";
    guest.turn("t1", &format!("[[tool:apply_patch {}]]", serde_json::json!(patch))).await;
    let asked = guest.until(|report| matches!(report, Report::PermissionRequested { .. })).await;
    let Some(Report::PermissionRequested { request_id, title, input, .. }) = asked.last() else { panic!() };
    assert!(title.starts_with("apply_patch: ") && title.ends_with("made.txt"), "{title}");
    assert!(input.to_string().contains("hello"), "{input}");
    guest.send(ToGuest::Permission { request_id: request_id.clone(), decision: "allow".to_owned() }).await;
    let reports = guest.end("t1").await;
    assert_eq!(tools(&reports).last().map(|call| call.status.as_str()), Some("completed"));
    assert_eq!(std::fs::read_to_string(guest.layout.repo().join("made.txt")).expect("it was made"), "hello\n");
    guest.close().await;
}

#[tokio::test]
async fn in_mode_deny_nothing_is_changed() {
    let (mut guest, _gateway, boot) = place().await;
    guest.boot(GuestBoot { permission_mode: "deny".to_owned(), ..boot }).await;
    let reports = guest.run("t1", "[[bash:touch made]]").await;
    assert!(!reports.iter().any(|report| matches!(report, Report::PermissionRequested { .. })));
    assert_eq!(tools(&reports).last().map(|call| call.status.as_str()), Some("failed"));
    assert!(!guest.layout.repo().join("made").exists());
    guest.close().await;
}
