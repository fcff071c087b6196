use super::*;
use crate::web::fetch;

async fn post(gateway: &Gateway, path: &str, body: Value) -> (u16, String) {
    let request = Request::post(format!("{}{path}", gateway.http_url()))
        .header("authorization", format!("Bearer {}", gateway.key()))
        .body(Bytes::from(body.to_string()))
        .unwrap();
    let response = fetch(None, request).await.unwrap();
    (response.status().as_u16(), String::from_utf8(response.body().to_vec()).unwrap())
}

/// Runs a conversation to its end, giving "output N" as the output of each tool, and shows what the model did.
async fn converse(protocol: Protocol, stream: bool, prompt: &str) -> Vec<String> {
    let ca = TestCa::new("test");
    let gateway = Gateway::start(&ca).await;
    gateway.script(Script::on(
        "fix it",
        vec![
            Step::say("Looking."),
            Step::read("/work/repo/a.py"),
            Step::edit("/work/repo/a.py", "1", "2"),
            Step::shell("git push"),
            Step::say("Pushed."),
        ],
    ));
    let mut seen = Vec::new();
    let mut history: Vec<Value> = Vec::new();
    for turn in 0.. {
        let (status, text) = post(&gateway, path(protocol), body(protocol, stream, prompt, &history)).await;
        assert_eq!(status, 200, "{text}");
        let (said, call) = read(protocol, stream, &text);
        if !said.is_empty() {
            seen.push(said);
        }
        let Some((name, input)) = call else { break };
        seen.push(format!("{name} {input}"));
        history.extend(result(protocol, turn, &name));
    }
    seen
}

fn path(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Messages => "/v1/messages",
        Protocol::Chat => "/v1/chat/completions",
        Protocol::Responses => "/v1/responses",
    }
}

fn body(protocol: Protocol, stream: bool, prompt: &str, history: &[Value]) -> Value {
    let tools = ["bash", "read", "edit"].map(|name| match protocol {
        Protocol::Chat => json!({ "type": "function", "function": { "name": name } }),
        _ => json!({ "type": "function", "name": name }),
    });
    let mut items = vec![json!({ "role": "user", "content": prompt })];
    items.extend_from_slice(history);
    let key = if protocol == Protocol::Responses { "input" } else { "messages" };
    json!({ "model": "m", "stream": stream, "tools": tools, key: items })
}

fn result(protocol: Protocol, turn: usize, name: &str) -> Vec<Value> {
    let output = format!("output {turn}");
    match protocol {
        Protocol::Messages => vec![
            json!({ "role": "assistant", "content": [{ "type": "tool_use", "id": "t", "name": name, "input": {} }] }),
            json!({ "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "t", "content": output },
                                               { "type": "text", "text": "<system-reminder>be good</system-reminder>" }] }),
        ],
        Protocol::Chat => vec![
            json!({ "role": "assistant", "content": null, "tool_calls": [] }),
            json!({ "role": "tool", "tool_call_id": "t", "content": output }),
        ],
        Protocol::Responses => vec![
            json!({ "type": "function_call", "call_id": "t", "name": name, "arguments": "{}" }),
            json!({ "type": "function_call_output", "call_id": "t", "output": output }),
        ],
    }
}

type Seen = (String, Option<(String, String)>);

fn read(protocol: Protocol, stream: bool, text: &str) -> Seen {
    let events: Vec<Value> = if stream {
        text.lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .filter_map(|data| serde_json::from_str(data).ok())
            .collect()
    } else {
        vec![serde_json::from_str(text).unwrap()]
    };
    let strings = |pointers: &[&str]| -> String {
        let found =
            events.iter().flat_map(|event| pointers.iter().filter_map(|pointer| event.pointer(pointer)?.as_str()));
        found.collect()
    };
    let call = |name: String, input: String| (!name.is_empty()).then_some((name, input));
    match (protocol, stream) {
        (Protocol::Messages, true) => {
            let name = strings(&["/content_block/name"]);
            (strings(&["/delta/text"]), call(name, strings(&["/delta/partial_json"])))
        }
        (Protocol::Chat, true) => {
            let function = "/choices/0/delta/tool_calls/0/function";
            let name = strings(&[&format!("{function}/name")]);
            (strings(&["/choices/0/delta/content"]), call(name, strings(&[&format!("{function}/arguments")])))
        }
        (Protocol::Responses, _) => {
            let finished = if stream { &events.last().unwrap()["response"] } else { &events[0] };
            let mut seen = (String::new(), None);
            for item in finished["output"].as_array().unwrap() {
                match item["type"].as_str().unwrap() {
                    "message" => seen.0.push_str(item["content"][0]["text"].as_str().unwrap()),
                    _ => {
                        seen.1 = call(item["name"].as_str().unwrap().into(), item["arguments"].as_str().unwrap().into())
                    }
                }
            }
            seen
        }
        (Protocol::Messages, false) => {
            let mut seen = (String::new(), None);
            for block in events[0]["content"].as_array().unwrap() {
                match block["type"].as_str().unwrap() {
                    "text" => seen.0.push_str(block["text"].as_str().unwrap()),
                    _ => seen.1 = call(block["name"].as_str().unwrap().into(), block["input"].to_string()),
                }
            }
            seen
        }
        (Protocol::Chat, false) => {
            let function = "/choices/0/message/tool_calls/0/function";
            let name = strings(&[&format!("{function}/name")]);
            (strings(&["/choices/0/message/content"]), call(name, strings(&[&format!("{function}/arguments")])))
        }
    }
}

/// The same conversation in every protocol, streamed and whole.
async fn check(prompt: &str, expected: &[&str]) {
    for protocol in [Protocol::Messages, Protocol::Chat, Protocol::Responses] {
        for stream in [false, true] {
            assert_eq!(converse(protocol, stream, prompt).await, expected, "{protocol:?} stream={stream}");
        }
    }
}

#[tokio::test]
async fn echoes_without_script() {
    check("hello there, how are you today?", &["You said: hello there, how are you today?"]).await;
}

#[tokio::test]
async fn markers_run_in_order_and_end_with_the_last_output() {
    let shell = r#"bash {"command":"ls [[ -d x ]]","description":"Runs a scripted command"}"#;
    check(
        "[[say:one]] [[bash:ls [[ -d x ]]]] [[tool:read {\"a\":[[1]]}]]",
        &["one", shell, r#"read {"a":[[1]]}"#, "DONE: output 1"],
    )
    .await;
}

#[tokio::test]
async fn a_script_answers_plain_words() {
    let expected = [
        "Looking.",
        r#"read {"filePath":"/work/repo/a.py"}"#,
        r#"edit {"filePath":"/work/repo/a.py","newString":"2","oldString":"1"}"#,
        r#"bash {"command":"git push","description":"Runs a scripted command"}"#,
        "Pushed.",
    ];
    check("please Fix It now", &expected).await;
}

#[tokio::test]
async fn recall_and_system_prompt() {
    let ca = TestCa::new("test");
    let gateway = Gateway::start(&ca).await;
    let body = json!({ "model": "m", "system": [{ "type": "text", "text": "You are Bob" }], "tools": [{ "name": "bash" }],
        "messages": [{ "role": "user", "content": "first" }, { "role": "assistant", "content": "ok" },
                     { "role": "user", "content": [{ "type": "text", "text": "[[recall]][[sys:Bob]][[images]]" },
                       { "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "" } }] }] });
    let (_, text) = post(&gateway, "/v1/messages", body).await;
    assert_eq!(read(Protocol::Messages, false, &text).0, "RECALL: firstSYS Bob: yesIMAGES: 1 image/png");
}

#[tokio::test]
async fn errors_as_often_as_scripted() {
    let ca = TestCa::new("test");
    let gateway = Gateway::start(&ca).await;
    let ask = body(Protocol::Messages, false, "[[error:503 1]][[say:better]]", &[]);
    let first = post(&gateway, "/v1/messages", ask.clone()).await.0;
    let second = post(&gateway, "/v1/messages", ask).await.0;
    let always = post(&gateway, "/v1/messages", body(Protocol::Messages, false, "[[error:429]]", &[])).await.0;
    assert_eq!((first, second, always), (503, 200, 429));
}

#[tokio::test]
async fn wants_its_key_and_keeps_every_request() {
    let ca = TestCa::new("test");
    let gateway = Gateway::start(&ca).await;
    for (header, value, status) in
        [("authorization", "Bearer wrong", 401), ("x-api-key", gateway.key(), 200), ("accept", "*/*", 401)]
    {
        for alpn in ["h2", "http/1.1"] {
            let uri = format!("{}/v1/models", gateway.https_url("gateway.test"));
            let request = Request::get(uri).header(header, value).body(Bytes::new()).unwrap();
            let response = fetch(Some(ca.client_config(&[alpn])), request).await.unwrap();
            assert_eq!(response.status().as_u16(), status, "{header} over {alpn}");
        }
    }
    assert_eq!(gateway.requests().len(), 6);
    assert_eq!(gateway.requests()[0].header("authorization"), Some("Bearer wrong"));
}

#[tokio::test]
async fn holds_until_released() {
    let ca = TestCa::new("test");
    let gateway = Gateway::start(&ca).await;
    let ask = body(Protocol::Messages, true, "[[say:before]][[hold:gate]][[say:after]]", &[]);
    let released = async {
        gateway.wait_until_held("gate").await;
        gateway.release("gate");
    };
    let (answer, ()) = tokio::join!(post(&gateway, "/v1/messages", ask), released);
    assert_eq!(read(Protocol::Messages, true, &answer.1).0, "beforeafter");
}
