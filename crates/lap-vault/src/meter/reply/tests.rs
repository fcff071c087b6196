use super::*;

/// What is counted of a reply, and how sure it is: the same however it is cut.
#[track_caller]
fn check(protocol: Protocol, reply: &str, expected: &str) {
    let cuts = [1, 2, 3, 5, 7, 11, 64, reply.len().max(1)];
    for cut in cuts {
        let mut reader = Reply::new(protocol);
        for piece in reply.as_bytes().chunks(cut) {
            reader.feed(piece);
        }
        let spend = reader.spend(400);
        let model = reader.model().unwrap_or("-");
        let cost = spend.cost_usd.map(|cost| format!(" ${cost}")).unwrap_or_default();
        let sure = if spend.estimated_calls == 0 { "" } else { " estimated" };
        let Spend { input_tokens, output_tokens, cached_tokens, cache_write_tokens, .. } = spend;
        let told = format!("{model} {input_tokens} ({cached_tokens} {cache_write_tokens}) {output_tokens}{cost}{sure}");
        assert_eq!(told, expected, "in pieces of {cut}: {reply}");
    }
}

fn events(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("data: {line}\n\n")).collect()
}

const START: &str = r#"{"type":"message_start","message":{"id":"m","model":"claude","content":[],
  "usage":{"input_tokens":10,"cache_creation_input_tokens":5,"cache_read_input_tokens":100,"output_tokens":1}}}"#;

#[test]
fn messages_whole() {
    check(
        Protocol::Messages,
        r#"{"type":"message","model":"claude","content":[{"type":"tool_use","input":{"usage":{"output_tokens":999}}},
           {"type":"text","text":"\"usage\":{\"input_tokens\":777}"}],
           "usage":{"input_tokens":10,"cache_creation_input_tokens":5,"cache_read_input_tokens":100,"output_tokens":20,
           "cost":0.002,"server_tool_use":{"input_tokens":5000}}}"#,
        "claude 115 (100 5) 20 $0.002",
    );
}

#[test]
fn messages_streamed() {
    let start = START.replace("\n", "");
    let stream = [
        "event: message_start\n".to_owned(),
        events(&[&start]),
        ": ping\r\n\r\n".to_owned(),
        events(&[r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}"#]),
        "event: message_delta\r\ndata:{\"type\":\"message_delta\",\"delta\":{},\"usage\":{\"output_tokens\":20}}\r\n\r\n".to_owned(),
        events(&[r#"{"type":"message_stop"}"#]),
    ]
    .concat();
    check(Protocol::Messages, &stream, "claude 115 (100 5) 20");
}

#[test]
fn messages_cut_off() {
    let start = START.replace("\n", "");
    let cut = events(&[&start, r#"{"delta":{"type":"text_delta","text":"twelve bytes"}}"#])
        + r#"data: {"delta":{"type":"text_delta","text":"four"#;
    check(Protocol::Messages, &cut, "claude 115 (100 5) 4 estimated");
    check(Protocol::Messages, "", "- 100 (0 0) 0 estimated");
}

#[test]
fn one_event_on_several_lines() {
    let pretty = "data: {\"usage\":\ndata: {\"input_tokens\": 3,\ndata: \"output_tokens\": 4}}\n\ndata: {\"usage\":{\"output_tokens\":1}}\n\n";
    check(Protocol::Messages, pretty, "- 3 (0 0) 4");
}

#[test]
fn chat_whole() {
    check(
        Protocol::Chat,
        r#"{"id":"c","model":"gpt","choices":[{"message":{"role":"assistant","content":"hi"}}],"usage":{"prompt_tokens":120,
           "completion_tokens":7,"total_tokens":127,"prompt_tokens_details":{"cached_tokens":100,"cache_write_tokens":9},
           "completion_tokens_details":{"reasoning_tokens":3}}}"#,
        "gpt 120 (100 9) 7",
    );
}

#[test]
fn chat_streamed_with_usage_and_without() {
    let chunk =
        |text: &str| format!(r#"{{"model":"gpt","choices":[{{"delta":{{"content":"{text}"}}}}],"usage":null}}"#);
    let words = [chunk("Hello wo"), chunk("rld!")];
    let usage = r#"{"model":"gpt","choices":[],"usage":{"prompt_tokens":12,"completion_tokens":3,"cost":1.5e-4}}"#;
    let stream = events(&[&words[0], &words[1], usage, "[DONE]"]);
    check(Protocol::Chat, &stream, "gpt 12 (0 0) 3 $0.00015");
    let without = events(&[&words[0], &words[1], "[DONE]"]);
    check(Protocol::Chat, &without, "gpt 100 (0 0) 3 estimated");
    let call = r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\": 1}"}}]}}]}"#;
    check(Protocol::Chat, &events(&[call]), "- 100 (0 0) 3 estimated");
}

#[test]
fn responses_whole_and_streamed() {
    let whole = r#"{"object":"response","model":"gpt","output":[{"content":[{"type":"output_text","text":"hello"}]}],
        "metadata":{"usage":{"input_tokens":9999}},
        "usage":{"input_tokens":50,"input_tokens_details":{"cached_tokens":40},"output_tokens":6,"total_tokens":56}}"#;
    check(Protocol::Responses, whole, "gpt 50 (40 0) 6");
    let created = r#"{"type":"response.created","response":{"model":"gpt","usage":null}}"#;
    let delta = r#"{"type":"response.output_text.delta","delta":"hello you"}"#;
    let done = r#"{"type":"response.output_text.done","text":"hello you"}"#;
    let completed = format!(r#"{{"type":"response.completed","response":{}}}"#, whole.replace('\n', " "));
    check(Protocol::Responses, &events(&[created, delta, done, &completed]), "gpt 50 (40 0) 6");
    check(Protocol::Responses, &events(&[created, delta, done]), "gpt 100 (0 0) 3 estimated");
}

#[test]
fn embeddings() {
    let reply = r#"{"data":[{"embedding":[0.1,-2e-3]}],"model":"embed","usage":{"prompt_tokens":8,"total_tokens":8}}"#;
    check(Protocol::Embeddings, reply, "embed 8 (0 0) 0");
    check(Protocol::Embeddings, r#"{"data":[],"usage":{"total_tokens":8}}"#, "- 8 (0 0) 0");
}

#[test]
fn numbers_that_cannot_be_are_none() {
    check(
        Protocol::Chat,
        r#"{"usage":{"prompt_tokens":-4,"completion_tokens":1e30,"cost":-1},"model":""}"#,
        "- 100 (0 0) 0 estimated",
    );
    check(Protocol::Chat, r#"{"usage":{"prompt_tokens":4.0,"completion_tokens":5}}"#, "- 4 (0 0) 5");
}
