use super::*;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nrest";

fn image<'a>(name: &'a str, content_type: &'a str, content: &'a [u8]) -> Attachment<'a> {
    Attachment { name, content_type, content: Some(content) }
}

#[track_caller]
fn check(text: &str, attachments: &[Attachment<'_>], expect: &[&str]) {
    match check_input("text", text, "attachments", attachments) {
        Ok(()) => assert!(expect.is_empty(), "taken, expected {expect:?}"),
        Err(InputRefusal::Invalid(problems)) => {
            let fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
            assert_eq!(fields, expect, "{problems:#?}");
        }
        Err(refusal) => panic!("{refusal:?}"),
    }
}

#[test]
fn a_message_needs_words_or_an_image() {
    check("hello", &[], &[]);
    check("", &[image("a.png", "image/png", PNG)], &[]);
    check(" \n", &[], &["text"]);
}

#[test]
fn text_is_limited() {
    check(&"x".repeat(MAX_TEXT_BYTES), &[], &[]);
    let refusal = check_input("text", &"x".repeat(MAX_TEXT_BYTES + 1), "attachments", &[]);
    assert_eq!(refusal, Err(InputRefusal::TextTooLong { bytes: MAX_TEXT_BYTES + 1 }));
}

#[test]
fn images_are_what_they_say() {
    check("x", &[image("a", "image/jpeg", b"\xff\xd8\xff\xe0")], &[]);
    check("x", &[image("a", "image/gif", b"GIF89a..")], &[]);
    check("x", &[image("a", "image/webp", b"RIFF\0\0\0\0WEBPVP8 ")], &[]);
    check("x", &[image("a", "image/jpeg", PNG)], &["attachments[0].content"]);
    check("x", &[image("a", "image/png", b"")], &["attachments[0].content"]);
    check("x", &[image("a", "image/svg+xml", b"<svg>")], &["attachments[0].content_type"]);
    check(
        "x",
        &[Attachment { name: "", content_type: "image/png", content: None }],
        &["attachments[0].name", "attachments[0].content"],
    );
    check("x", &[image("a/b", "image/png", PNG)], &["attachments[0].name"]);
}

#[test]
fn images_are_limited() {
    let sized = |bytes: usize| {
        let mut content = PNG.to_vec();
        content.resize(bytes, 0);
        content
    };
    let (fits, too_large) = (sized(MAX_ATTACHMENT_BYTES), sized(MAX_ATTACHMENT_BYTES + 1));
    let (fits, too_large) = (image("a", "image/png", &fits), image("a", "image/png", &too_large));
    let small = image("a", "image/png", PNG);
    check("x", &[fits; 3], &[]);
    check("x", &[fits, fits, fits, small], &["attachments"]);
    check("x", &[too_large], &["attachments[0].content"]);
    check("x", &[small; 10], &[]);
    check("x", &[small; 11], &["attachments"]);
}
