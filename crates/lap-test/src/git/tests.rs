use super::*;

/// Runs git as a client with this token and says whether it worked, with what it said.
async fn client(ca: &Path, folder: &Path, token: &str, arguments: &[&str]) -> (bool, String) {
    let helper = format!("credential.helper=!f() {{ echo username=x; echo password={token}; }}; f");
    let output = Command::new("git")
        .args(["-c", &helper, "-c", &format!("http.sslCAInfo={}", ca.display())])
        .args(["-c", "user.name=T", "-c", "user.email=t@example.com"])
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", folder)
        .env("GIT_TERMINAL_PROMPT", "0")
        .output()
        .await
        .unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn clones_and_pushes_with_the_token_only() {
    let ca = TestCa::new("test");
    let server = GitServer::start(&ca).await;
    let bare = server.create_broken_project("pricing");
    let folder = tempfile::tempdir().unwrap();
    let pem = ca.write(folder.path()).unwrap();
    let (token, url) = (server.token().unwrap().to_owned(), server.url("localhost", "pricing"));

    let (ok, said) = client(&pem, folder.path(), "wrong", &["clone", &url, "nothing"]).await;
    assert!(!ok && said.contains("Authentication failed"), "{said}");
    let (ok, said) = client(&pem, folder.path(), &token, &["clone", &url, "work"]).await;
    assert!(ok, "{said}");

    let work = folder.path().join("work");
    let fixed = std::fs::read_to_string(work.join("pricing.py")).unwrap().replace(BUG, FIX);
    std::fs::write(work.join("pricing.py"), fixed).unwrap();
    for arguments in [&["checkout", "-b", "fix"][..], &["commit", "-am", "Take the discount as a percentage"]] {
        assert!(client(&pem, &work, &token, arguments).await.0);
    }
    let (ok, _) = client(&pem, &work, "wrong", &["push", "origin", "fix"]).await;
    assert!(!ok && bare.branches() == ["main"]);
    let (ok, said) = client(&pem, &work, &token, &["push", "origin", "fix"]).await;
    assert!(ok, "{said}");
    assert_eq!(bare.branches(), ["fix", "main"]);
    assert_eq!(bare.commits("fix"), ["Take the discount as a percentage", "Start"]);
    assert!(bare.diff("main", "fix").contains(FIX));
    assert!(server.requests().iter().any(|request| request.status == 401));
    let (ok, said) = client(&pem, folder.path(), &token, &["clone", &server.url("localhost", "none"), "x"]).await;
    assert!(!ok && said.contains("not found"), "{said}");
}

#[test]
fn the_project_fails_until_fixed() {
    let folder = tempfile::tempdir().unwrap();
    let passes = || {
        let mut python = std::process::Command::new("python3");
        python.args(["-B", "-m", "unittest"]).current_dir(folder.path()).output().unwrap().status.success()
    };
    for (name, content) in broken_project() {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    assert!(!passes());
    let source = folder.path().join("pricing.py");
    std::fs::write(&source, std::fs::read_to_string(&source).unwrap().replace(BUG, FIX)).unwrap();
    assert!(passes());
}
