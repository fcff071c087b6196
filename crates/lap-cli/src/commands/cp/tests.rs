use super::*;

#[test]
fn which_side_is_the_sandbox() {
    for (text, expect) in [
        ("s1:/work/a", Some(("s1", "/work/a"))),
        ("s1:a", Some(("s1", "a"))),
        ("./a:b", None),
        ("/x/a:b", None),
        ("plain", None),
        (":x", None),
        ("s1:", None),
    ] {
        assert_eq!(remote(text), expect, "{text}");
    }
    assert_eq!(into("/work/", Path::new("x/data.csv")).ok().as_deref(), Some("/work/data.csv"));
    assert_eq!(into("/work/other", Path::new("x/data.csv")).ok().as_deref(), Some("/work/other"));
}
