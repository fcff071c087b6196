use super::*;
use crate::harness::opencode::wire::{Frames, parse};

/// Plays events, one JSON object a line with `S` for the session and `U` for the user message, and writes down what is
/// reported.
fn play(progress: &mut Progress, events: &str) -> Vec<String> {
    let now = Instant::now();
    let mut seen = Vec::new();
    for line in events.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let line = line.replace("\"S\"", "\"ses_1\"").replace("\"U\"", "\"msg_u\"");
        let event = parse(line.as_bytes()).unwrap_or_else(|| panic!("not an event that matters: {line}"));
        let Step { reports, outcome, give_up } = progress.apply(event, now);
        seen.extend(reports.iter().map(say));
        if give_up {
            seen.push("give up".to_owned());
        }
        match outcome {
            Some(Outcome::Completed { message, usage }) => {
                let Usage { input_tokens, output_tokens, cached_tokens, .. } = usage;
                seen.push(format!("completed {} with {input_tokens}/{output_tokens}/{cached_tokens}", message.info.id));
            }
            Some(Outcome::Failed { code, error }) => seen.push(format!("{code}: {error}")),
            None => {}
        }
    }
    seen
}

fn say(report: &Report) -> String {
    match report {
        Report::Delta { kind: DeltaKind::Text, delta, .. } => format!("+{delta}"),
        Report::Delta { kind: DeltaKind::Reasoning, delta, .. } => format!("~{delta}"),
        Report::Tool { call, .. } => {
            let title = call.title.as_deref().unwrap_or_default();
            format!("{} {} `{title}` {:?}", call.tool, call.status, call.output)
        }
        Report::MessageCompleted { message, .. } => {
            format!("message of {} parts, error {:?}", message.parts.len(), message.info.error)
        }
        other => format!("{other:?}"),
    }
}

#[track_caller]
fn check(events: &str, expect: &[&str]) {
    let mut progress = Progress::new("t1", "ses_1", "m", "msg_u".to_owned());
    assert_eq!(play(&mut progress, events), expect);
}

const KNOWN: &str = r#"
    {"type":"message.updated","properties":{"info":{"id":"U","role":"user","sessionID":"S","time":{"created":1}}}}
    {"type":"session.status","properties":{"sessionID":"S","status":{"type":"busy"}}}
    {"type":"message.updated","properties":{"info":{"id":"a1","role":"assistant","sessionID":"S","parentID":"U","time":{"created":2}}}}
"#;

const IDLE: &str = r#"
    {"type":"session.idle","properties":{"sessionID":"S"}}"#;

#[test]
fn an_answer_with_a_tool_in_it() {
    let events = format!(
        "{KNOWN}{}{IDLE}",
        r#"
    {"type":"message.part.updated","properties":{"part":{"id":"p1","messageID":"a1","sessionID":"S","type":"reasoning","text":""}}}
    {"type":"message.part.delta","properties":{"sessionID":"S","messageID":"a1","partID":"p1","field":"text","delta":"hm"}}
    {"type":"message.part.updated","properties":{"part":{"id":"p2","messageID":"a1","sessionID":"S","type":"tool","tool":"bash","state":{"status":"pending","input":{},"raw":""}}}}
    {"type":"message.part.updated","properties":{"part":{"id":"p2","messageID":"a1","sessionID":"S","type":"tool","tool":"bash","state":{"status":"running","input":{"command":"ls"}}}}}
    {"type":"message.part.updated","properties":{"part":{"id":"p2","messageID":"a1","sessionID":"S","type":"tool","tool":"bash","state":{"status":"running","input":{"command":"ls"},"metadata":{"output":"a"}}}}}
    {"type":"message.part.updated","properties":{"part":{"id":"p2","messageID":"a1","sessionID":"S","type":"tool","tool":"bash","state":{"status":"completed","input":{"command":"ls"},"output":"a\n","title":"ls"}}}}
    {"type":"message.updated","properties":{"info":{"id":"a1","role":"assistant","sessionID":"S","parentID":"U","time":{"created":2,"completed":3},"finish":"tool-calls","tokens":{"input":11,"output":20,"reasoning":1,"cache":{"read":3,"write":2}}}}}
    {"type":"message.updated","properties":{"info":{"id":"a2","role":"assistant","sessionID":"S","parentID":"U","time":{"created":4}}}}
    {"type":"message.part.updated","properties":{"part":{"id":"p3","messageID":"a2","sessionID":"S","type":"text","text":""}}}
    {"type":"message.part.delta","properties":{"sessionID":"S","messageID":"a2","partID":"p3","field":"text","delta":"do"}}
    {"type":"message.part.updated","properties":{"part":{"id":"p3","messageID":"a2","sessionID":"S","type":"text","text":"done"}}}
    {"type":"message.updated","properties":{"info":{"id":"a2","role":"assistant","sessionID":"S","parentID":"U","time":{"created":4,"completed":5},"finish":"stop","tokens":{"input":1,"output":1,"reasoning":0,"cache":{"read":0,"write":0}}}}}"#
    );
    check(
        &events,
        &[
            "~hm",
            "bash running `ls` None",
            "bash completed `ls` Some(\"a\\n\")",
            "message of 2 parts, error None",
            "+do",
            "+ne",
            "message of 1 parts, error None",
            "completed a2 with 14/22/3",
        ],
    );
}

#[test]
fn an_idle_of_the_turn_before_ends_nothing() {
    check(&format!("{IDLE}{KNOWN}{IDLE}"), &[]);
}

/// opencode says idle once before the message is final.
#[test]
fn an_abort_ends_with_the_second_idle() {
    let mut progress = Progress::new("t1", "ses_1", "m", "msg_u".to_owned());
    play(&mut progress, KNOWN);
    progress.abort();
    let events = format!(
        "{}{IDLE}{}{IDLE}",
        r#"{"type":"session.error","properties":{"sessionID":"S","error":{"name":"MessageAbortedError","data":{"message":"Aborted"}}}}"#,
        r#"
    {"type":"message.part.updated","properties":{"part":{"id":"p1","messageID":"a1","sessionID":"S","type":"text","text":"half"}}}
    {"type":"message.updated","properties":{"info":{"id":"a1","role":"assistant","sessionID":"S","parentID":"U","time":{"created":2,"completed":3},"error":{"name":"MessageAbortedError","data":{"message":"Aborted"}}}}}"#
    );
    let expect = ["+half", "message of 1 parts, error Some(\"aborted\")", "aborted: the turn was aborted"];
    assert_eq!(play(&mut progress, &events), expect);
}

#[track_caller]
fn check_error(problem: &str, expect: &str) {
    let events = format!(
        "{KNOWN}{{\"type\":\"message.updated\",\"properties\":{{\"info\":{{\"id\":\"a1\",\"role\":\"assistant\",\"sessionID\":\"S\",\"parentID\":\"U\",\"time\":{{\"created\":2,\"completed\":3}},\"error\":{problem}}}}}}}{IDLE}"
    );
    check(&events, &[&format!("harness_failed: {expect}")]);
}

#[test]
fn errors_of_the_model_are_sentences() {
    let api = |status: u16| format!(r#"{{"name":"APIError","data":{{"message":"no way","statusCode":{status}}}}}"#);
    check_error(&api(401), "the model gateway refused the key: no way");
    check_error(&api(404), "the model gateway does not know the model `m`: no way");
    check_error(&api(400), "the model gateway refused the request (400): no way");
    check_error(&api(502), "the model gateway failed (502): no way");
    check_error(r#"{"name":"UnknownError","data":{"message":"boom"}}"#, "opencode failed: boom");
    check_error(
        r#"{"name":"APIError","data":{"message":"no","statusCode":403,"responseHeaders":{"x-lap-blocked":"gateway_route"}}}"#,
        "the vault refused the call of the model (gateway_route): no",
    );
}

#[test]
fn endless_retries_are_given_up() {
    let retry = |n: u32| {
        format!(
            r#"
    {{"type":"session.status","properties":{{"sessionID":"S","status":{{"type":"retry","attempt":{n},"message":"overloaded","next":1}}}}}}"#
        )
    };
    let retries: String = (1..=5).map(retry).collect();
    let end = r#"
    {"type":"message.updated","properties":{"info":{"id":"a1","role":"assistant","sessionID":"S","parentID":"U","time":{"created":2,"completed":3}}}}"#;
    check(
        &format!("{KNOWN}{retries}{end}{IDLE}"),
        &["give up", "harness_failed: the model gateway failed 5 times in a row: overloaded"],
    );
}

#[test]
fn a_permission_request_says_what_is_asked_for() {
    let mut progress = Progress::new("t1", "ses_1", "m", "msg_u".to_owned());
    let seen = play(
        &mut progress,
        r#"{"type":"permission.asked","properties":{"id":"per_1","sessionID":"S","permission":"bash","patterns":["rm x"],"metadata":{"command":"rm x"}}}"#,
    );
    assert!(seen[0].contains("request_id: \"per_1\", title: \"bash: rm x\""), "{}", seen[0]);
}

#[test]
fn events_survive_any_cutting() {
    let stream = b"data: {\"a\":1}\n\n: a comment\n\ndata: two\n\n";
    for size in 1..stream.len() {
        let mut frames = Frames::default();
        let mut seen = Vec::new();
        for piece in stream.chunks(size) {
            assert!(frames.take(piece, |data| seen.push(String::from_utf8_lossy(data).into_owned())));
        }
        assert_eq!(seen, ["{\"a\":1}", "two"]);
    }
}

#[test]
fn a_conversation_that_is_shortened_goes_on_in_the_same_turn() {
    let message = |id: &str, parent: &str, rest: &str| {
        format!(
            r#"
    {{"type":"message.updated","properties":{{"info":{{"id":"{id}","role":"assistant","sessionID":"S","parentID":"{parent}"{rest}}}}}}}"#
        )
    };
    let events = [
        KNOWN.to_owned(),
        message("a1", "msg_u", r#","time":{"created":2,"completed":3},"finish":"tool-calls""#),
        message("a2", "msg_v", r#","summary":true,"time":{"created":4,"completed":5},"finish":"stop""#),
        message("a3", "msg_w", r#","time":{"created":6,"completed":7},"finish":"stop""#),
        // Late news of an earlier turn.
        message("a0", "msg_a", r#","time":{"created":0,"completed":1},"finish":"stop""#),
        IDLE.to_owned(),
    ];
    check(&events.concat(), &["completed a3 with 0/0/0"]);
}
