use super::*;

#[tokio::test]
async fn runs_line_by_line_and_writes_down_what_came_out() {
    let script = "
        agent a1 warm=1 prompt=\"be brief\"   # the first
        # nothing here
        say s1 \"two words\" x
        tick";
    let mut count = 0;
    let transcript = Scenario::run(script, async |step| {
        count += 1;
        match step.verb.as_str() {
            "agent" => format!("{} {:?} {:?}", step.word(0), step.option("warm"), step.option("prompt")),
            "say" => format!("{}\n{}", step.word(1), step.line),
            _ => String::new(),
        }
    })
    .await;
    let expected = "agent a1 warm=1 prompt=\"be brief\"\n    a1 Some(\"1\") Some(\"be brief\")\n\
                    say s1 \"two words\" x\n    two words\n    4\ntick\n";
    assert_eq!((transcript.as_str(), count), (expected, 3));
}
