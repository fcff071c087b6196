use lap_api::agent::CreateAgent;
use lap_api::message::SendMessage;
use lap_api::session::{AnswerPermission, PatchSession};
use serde::de::DeserializeOwned;

use super::json::parse;
use super::query::{Paging, Params};

fn refusal<T: DeserializeOwned>(body: &str) -> String {
    match parse::<T>(body.as_bytes()) {
        Ok(_) => "taken".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn check<T: DeserializeOwned>(body: &str, expected: &str) {
    assert_eq!(refusal::<T>(body), expected, "{body}");
}

#[test]
fn malformed_json_is_located() {
    check::<CreateAgent>("", "The body is empty; send a JSON object.");
    check::<CreateAgent>("{", "The body is not valid JSON: EOF while parsing an object at line 1 column 1.");
    check::<CreateAgent>("{}\n{}", "The body is not valid JSON: trailing characters at line 2 column 1.");
    check::<CreateAgent>("{\"name\":1e999}", "The body is not valid JSON: number out of range at line 1 column 13.");
    assert!(refusal::<CreateAgent>(&"[".repeat(100_000)).contains("recursion limit"));
}

#[test]
fn other_kinds_of_body_are_named() {
    check::<CreateAgent>("[]", "The body must be an object, not a list.");
    check::<CreateAgent>("null", "The body must be an object, not null.");
    check::<CreateAgent>("\"x\"", "The body must be an object, not a string.");
}

#[test]
fn unknown_fields_are_all_named() {
    check::<CreateAgent>(r#"{"model":"m","naem":1}"#, "naem: is not a field of this request");
    check::<CreateAgent>(
        r#"{"zzz":1,"model":"m","aaa":{},"sandbox_files":[{"name":"n","sandbox_path":"/x","size":0,"mode":7}]}"#,
        "The request has 3 problems. aaa: is not a field of this request · sandbox_files[0].mode: is not a field of this \
         request · zzz: is not a field of this request",
    );
    check::<SendMessage>(
        r#"{"parts":[{"type":"text","text":"x","more":1}]}"#,
        "parts[0].more: is not a field of this request",
    );
    check::<CreateAgent>(r#"{"a`, b":1}"#, "a`, b: is not a field of this request");
}

#[test]
fn wrong_types_are_located_and_values_are_not_repeated() {
    check::<CreateAgent>(r#"{"model":5}"#, "model: must be a string, not a number");
    check::<CreateAgent>(r#"{"env_vars":"KEY=topsecret"}"#, "env_vars: must be an object, not a string");
    check::<CreateAgent>(r#"{"env_vars":{"KEY":["topsecret"]}}"#, "env_vars.KEY: must be a string, not a list");
    check::<CreateAgent>(r#"{"plain_env_vars":null}"#, "plain_env_vars: must be a list, not null");
    check::<CreateAgent>(
        r#"{"sandbox_files":[{"name":"n","sandbox_path":"/x","size":-1}]}"#,
        "sandbox_files[0].size: must be a whole number from 0",
    );
    check::<CreateAgent>(r#"{"sandbox_files":[{"sandbox_path":"/x","size":1}]}"#, "sandbox_files[0].name: is required");
    check::<CreateAgent>(
        r#"{"model":[],"branch":{},"x":1}"#,
        "The request has 3 problems. branch: must be a string, not an object · model: must be a string, not a list · x: is \
         not a field of this request",
    );
    check::<AnswerPermission>(r#"{"decision":"perhaps"}"#, "decision: must be one of `allow`, `allow_always`, `deny`");
    check::<AnswerPermission>("{}", "decision: is required");
    check::<PatchSession>("{}", "taken");
    check::<PatchSession>(r#"{"max_tokens":-1}"#, "max_tokens: must be a whole number from 0");
    check::<PatchSession>(r#"{"title":null}"#, "taken");
}

#[test]
fn a_key_that_stands_twice_is_refused() {
    check::<CreateAgent>(
        r#"{"env_vars":{"KEY":"a","KEY":"b"}}"#,
        "The body has the key `KEY` twice at line 1 column 28.",
    );
}

#[test]
fn endless_lists_of_problems_are_cut() {
    let fields: Vec<String> = (0..1000).map(|n| format!("\"f{n}\":1")).collect();
    assert!(refusal::<CreateAgent>(&format!("{{{}}}", fields.join(","))).starts_with("The request has 32 problems."));
}

#[track_caller]
fn check_paging(query: &str, expected: Result<(u32, u64), &str>) {
    let read = Params::read::<Paging>(query).map(|Paging { limit, offset }| (limit, offset)).map_err(|e| e.to_string());
    assert_eq!(read, expected.map_err(str::to_owned), "{query}");
}

#[test]
fn paging_is_bounded() {
    check_paging("", Ok((50, 0)));
    check_paging("limit=200&offset=7", Ok((200, 7)));
    check_paging("limit=0", Err("limit: must be a whole number from 1 to 200"));
    check_paging("limit=201", Err("limit: must be a whole number from 1 to 200"));
    check_paging("limit=", Err("limit: must be a whole number from 1 to 200"));
    check_paging("limit=1&limit=2", Err("limit: stands twice in the query"));
    check_paging(
        "offset=-1&page=2",
        Err(
            "The request has 2 problems. offset: must be a whole number from 0 · page: is not a parameter of this route",
        ),
    );
}
