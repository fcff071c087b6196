use super::*;

/// A layout with a home and a working tree, and a link `~/trap` that leads out of it.
fn place() -> (tempfile::TempDir, Layout) {
    let root = tempfile::tempdir().expect("a folder");
    let layout = Layout::below(root.path());
    for folder in [layout.home(), layout.repo(), layout.tmp(), root.path().join("outside")] {
        std::fs::create_dir_all(folder).expect("a folder");
    }
    std::os::unix::fs::symlink(root.path().join("outside"), layout.home().join("trap")).expect("a link");
    (root, layout)
}

#[track_caller]
fn check(path: &str, expect: Result<&str, &str>) {
    let (root, layout) = place();
    let done = Target::parse(&layout, path).and_then(|target| target.write(&Content::Bytes(b"hello")));
    match (done, expect) {
        (Ok(()), Ok(at)) => assert_eq!(std::fs::read(root.path().join(at)).expect("the file"), b"hello"),
        (Err(failure), Err(why)) => assert!(failure.reason.contains(why), "{failure}"),
        (Ok(()), Err(why)) => panic!("was written instead of: {why}"),
        (Err(failure), Ok(_)) => panic!("{failure}"),
    }
    assert_eq!(std::fs::read_dir(root.path().join("outside")).expect("a folder").count(), 0);
}

#[test]
fn files_go_home_and_to_absolute_paths() {
    check("~/a.txt", Ok("home/agent/a.txt"));
    check("~/.config/deep/er/a.txt", Ok("home/agent/.config/deep/er/a.txt"));
    check("/work/repo/x/a.txt", Ok("work/repo/x/a.txt"));
    check("/tmp//a.txt", Ok("tmp/a.txt"));
}

#[test]
fn paths_that_escape_are_refused() {
    check("~/../outside/a", Err("`..`"));
    check("/work/../outside/a", Err("`..`"));
    check("~/trap/a", Err("symbolic link"));
    check("~/trap/deeper/a", Err("symbolic link"));
    check("relative", Err("absolute"));
    check("~/", Err("names no file"));
    check("/work/folder/", Err("names a folder"));
    for folder in ["/proc/1/mem", "/sys/x", "/dev/null", "/opt/lap/bin/lap", "/run/lap/gitconfig", "/etc/passwd"] {
        check(folder, Err("belongs to the platform"));
    }
}

#[test]
fn a_link_in_the_last_place_is_replaced_not_followed() {
    let (root, layout) = place();
    let target = Target::parse(&layout, "~/trap").expect("a good path");
    target.write(&Content::Bytes(b"new")).expect("it is written");
    assert_eq!(std::fs::read(layout.home().join("trap")).expect("a file"), b"new");
    assert_eq!(std::fs::read_dir(root.path().join("outside")).expect("a folder").count(), 0);
}
