use super::*;

#[track_caller]
fn check_path(path: &str, expect: &str) {
    let found = resolve_path(path).unwrap_or_else(|why| why);
    assert_eq!(found, expect, "{path}");
}

#[test]
fn paths_that_may_be_written() {
    check_path("/work/notes.md", "/work/notes.md");
    check_path("~/.config/x", "/home/agent/.config/x");
    check_path("~//a/./b", "/home/agent/a/b");
    check_path("/procedure/a", "/procedure/a");
    check_path("/work/a..b", "/work/a..b");
}

#[test]
fn paths_that_may_not() {
    for path in ["/work/../etc/passwd", "~/../x", "/..", "~/a/.."] {
        check_path(path, "must not contain `..`");
    }
    for path in ["", "relative", "~", "~root/x", "./x"] {
        check_path(path, "must be absolute or begin with `~/`");
    }
    for (path, folder) in [
        ("/proc/self/environ", "/proc"),
        ("//proc//x", "/proc"),
        ("/./sys/x", "/sys"),
        ("/dev/shm/x", "/dev"),
        ("/dev", "/dev"),
        ("/run/lap/gitconfig", "/run/lap"),
        ("/var/run/lap/x", "/var/run/lap"),
        ("/opt/lap/bin/lap", "/opt/lap"),
    ] {
        check_path(path, &format!("is inside {folder}, which belongs to the system"));
    }
    for path in ["/work/", "~/", "/", "/home/agent", "/work/."] {
        check_path(path, "names a folder, not a file");
    }
    check_path("/work/a\0b", "has control characters in it");
    check_path(&format!("/work/{}", "a".repeat(256)), "has a name of more than 255 bytes in it");
}

fn file(path: &str) -> NewFile {
    NewFile {
        name: "a".to_owned(),
        sandbox_path: path.to_owned(),
        content: Some(b"hello".to_vec()),
        encoded_len: 8,
        content_type: "text/plain".to_owned(),
        size: 5,
    }
}

#[track_caller]
fn check_files(files: Vec<NewFile>, expect: &[&str]) {
    let mut problems = Vec::new();
    let count = files.len();
    let checked = check(files, &mut problems);
    let fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, expect, "{problems:#?}");
    if expect.is_empty() {
        assert_eq!(checked.len(), count);
    }
}

#[test]
fn files_and_their_limits() {
    check_files(vec![file("~/a"), file("~/b")], &[]);
    check_files((0..20).map(|i| file(&format!("~/{i}"))).collect(), &[]);
    check_files((0..21).map(|i| file(&format!("~/{i}"))).collect(), &["sandbox_files"]);
    let large = |encoded_len| vec![NewFile { encoded_len, ..file("~/a") }];
    check_files(large(MAX_ENCODED_BYTES), &[]);
    check_files(large(MAX_ENCODED_BYTES + 1), &["sandbox_files"]);
}

#[test]
fn problems_of_files_come_together() {
    check_files(
        vec![
            NewFile { size: 4, ..file("~/a") },
            NewFile { name: String::new(), content: None, ..file("/proc/x") },
            NewFile { content_type: "text".to_owned(), ..file("/home/agent/a") },
            NewFile { name: "x".repeat(256), ..file("~/c") },
        ],
        &[
            "sandbox_files[0].size",
            "sandbox_files[1].name",
            "sandbox_files[1].sandbox_path",
            "sandbox_files[1].content",
            "sandbox_files[2].sandbox_path",
            "sandbox_files[2].content_type",
            "sandbox_files[3].name",
        ],
    );
}
