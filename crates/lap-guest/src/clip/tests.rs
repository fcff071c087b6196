use super::*;

#[test]
fn cuts_fall_between_characters() {
    assert_eq!(head("ää", 3), "ä\n[… cut: 2 of 4 bytes shown]");
    assert_eq!(tail("ää", 3), "[… 2 bytes before this]\nä");
    assert_eq!(head("short", 5), "short");
}

#[test]
fn a_value_shares_one_budget() {
    let mut long = serde_json::json!({"a": "x".repeat(10), "b": ["y".repeat(10)]});
    value(&mut long, 15);
    assert_eq!(long["a"], "xxxxxxxxxx");
    assert_eq!(long["b"][0], "yyyyy\n[… cut: 5 of 10 bytes shown]");
}
