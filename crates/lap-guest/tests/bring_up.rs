//! Bring-up without a harness program: files, clone, trust, and the shell adapter.

mod kit;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kit::{Guest, answer, boot, failure, git, phases, repo, said};
use lap_api::agent::SandboxFile;
use lap_api::event::DeltaKind;
use lap_api::link::{GuestBoot, HarnessFile, HarnessFileContent, Repo, Report, SkillFile, ToGuest};
use lap_test::ca::TestCa;
use lap_test::git::{BareRepo, GitServer};

fn file(path: &str, content: &str) -> SandboxFile {
    SandboxFile {
        name: "a file".to_owned(),
        sandbox_path: path.to_owned(),
        content: Some(STANDARD.encode(content)),
        content_type: "text/plain".to_owned(),
        size: content.len() as u64,
    }
}

/// A git server with the broken project as `shop`, the authority of its certificate, and what it serves.
async fn with_git() -> (TestCa, GitServer, BareRepo) {
    let ca = TestCa::new("test authority");
    let server = GitServer::start(&ca).await;
    let shop = server.create_broken_project("shop");
    (ca, server, shop)
}

async fn trusting(ca: &TestCa) -> Guest {
    let mut guest = Guest::start().await;
    guest.send(ToGuest::Trust { protocol: 1, ca_pem: ca.pem().to_owned() }).await;
    guest
}

fn cloned(reports: &[Report]) -> (Option<String>, Option<String>) {
    let found = reports.iter().find_map(|report| match report {
        Report::CloneDone { branch, commit } => Some((branch.clone(), commit.clone())),
        _ => None,
    });
    found.expect("the clone's end is always reported")
}

#[tokio::test]
async fn without_a_repository_the_working_tree_is_an_empty_folder() {
    let mut guest = Guest::start().await;
    let reports = guest.boot(boot()).await;
    let expect = ["injecting_files", "cloning_repo", "waiting_harness", "harness_listening", "harness_ready"];
    assert_eq!(phases(&reports), expect);
    assert_eq!(cloned(&reports), (None, None));
    assert_eq!(std::fs::read_dir(guest.layout.repo()).expect("the folder").count(), 0);
    guest.close().await;
}

#[tokio::test]
async fn files_skills_and_harness_files_are_in_place_before_the_harness() {
    let mut guest = Guest::start().await;
    let mut boot = GuestBoot {
        files: vec![file("~/notes/a.txt", "one"), file("/work/repo/deep/b.txt", "two"), file("/tmp/c", "three")],
        skills: vec![SkillFile { slug: "deploy".to_owned(), content: "---\nname: deploy\n---\nText".to_owned() }],
        ..boot()
    };
    boot.harness.files = vec![
        HarnessFile { path: "~/.config/x.json".to_owned(), content: HarnessFileContent::Text("{}".to_owned()) },
        HarnessFile { path: "~/.config/mods".to_owned(), content: HarnessFileContent::Link("/opt/lap/x".to_owned()) },
    ];
    guest.boot(boot).await;
    let read = |path: &str| std::fs::read_to_string(guest.root().join(path)).expect(path);
    assert_eq!(read("home/agent/notes/a.txt"), "one");
    assert_eq!(read("work/repo/deep/b.txt"), "two");
    assert_eq!(read("tmp/c"), "three");
    assert_eq!(read("home/agent/.config/shell/skills/deploy/SKILL.md"), "---\nname: deploy\n---\nText");
    assert_eq!(read("home/agent/.config/x.json"), "{}");
    let link = std::fs::read_link(guest.root().join("home/agent/.config/mods")).expect("a link");
    assert_eq!(link.to_str(), Some("/opt/lap/x"));
    guest.close().await;
}

#[tokio::test]
async fn a_file_that_escapes_ends_bring_up() {
    for path in ["~/../../etc/x", "/proc/self/mem", "/opt/lap/bin/lap", "/run/lap/gitconfig"] {
        let mut guest = Guest::start().await;
        let (code, reason) = guest.boot_fails(GuestBoot { files: vec![file(path, "x")], ..boot() }).await;
        assert_eq!(code, "sandbox_file");
        assert!(reason.contains(path), "{reason}");
        // What comes after a failed bring-up is answered, not swallowed.
        let (code, _) = failure(&guest.run("t1", "true").await);
        assert_eq!(code, "harness_failed");
        guest.close().await;
    }
}

#[tokio::test]
async fn a_private_repository_is_cloned_and_nothing_of_the_token_stays() {
    let (ca, server, _) = with_git().await;
    let mut guest = trusting(&ca).await;
    let url = server.url("localhost", "shop");
    let token = server.token().expect("it demands one").to_owned();
    let reports = guest.boot(GuestBoot { repo: Some(repo(&url, Some(&token))), ..boot() }).await;
    let tree = guest.layout.repo();
    assert_eq!(cloned(&reports), (Some("main".to_owned()), Some(git(&tree, &["rev-parse", "HEAD"]))));
    assert_eq!(git(&tree, &["status", "--porcelain"]), "");
    assert_eq!(git(&tree, &["remote", "get-url", "origin"]), url);
    let found = std::process::Command::new("grep").args(["-r", &token]).arg(guest.root()).output().expect("grep");
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    let env =
        answer(&guest.run("t1", "env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n' | grep -c LAP_CLONE").await);
    assert!(!env.contains(&token) && !env.contains("LAP_CLONE_TOKEN="), "{env}");
    guest.close().await;
}

#[tokio::test]
async fn with_a_token_of_the_user_commit_and_push_just_work() {
    let (ca, server, shop) = with_git().await;
    let mut guest = trusting(&ca).await;
    let url = server.url("localhost", "shop");
    let token = server.token().expect("it demands one").to_owned();
    // The platform's token is no good here, the user's own is.
    let repo = repo(&url, Some("stub_refused_00000000"));
    let env = [("GITHUB_TOKEN".to_owned(), token)].into();
    guest.boot(GuestBoot { repo: Some(repo), env, ..boot() }).await;
    let script = "git checkout -q -b fix && echo more >> README.md && git commit -qam 'More' && git push -q origin fix && echo pushed";
    let said = answer(&guest.run("t1", script).await);
    assert!(said.contains("pushed"), "{said}");
    assert_eq!(shop.author("fix"), "Test Agent <agent@example.com>");
    assert_eq!(shop.commits("fix"), ["More", "Start"]);
    guest.close().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_clone_is_said_in_a_sentence() {
    let (ca, server, _) = with_git().await;
    let token = server.token().expect("it demands one").to_owned();
    let url = server.url("localhost", "shop");
    let missing = server.url("localhost", "nothing");
    let branch = Repo { branch: "develop".to_owned(), ..repo(&url, Some(&token)) };
    let cases = [
        (branch, "branch_not_found", "default branch is `main`"),
        (repo(&url, Some("wrong")), "repo_auth", "refused the token"),
        (repo(&url, None), "repo_auth", "private"),
        (repo(&missing, Some(&token)), "repo_not_found", "no repository at"),
        (repo("https://localhost:1/x.git", None), "repo_unreachable", "`localhost:1` cannot be reached"),
        (repo("https://no.such.name.invalid/x.git", None), "repo_unreachable", "does not resolve"),
    ];
    for (repo, code, words) in cases {
        let mut guest = trusting(&ca).await;
        let (got, reason) = guest.boot_fails(GuestBoot { repo: Some(repo), ..boot() }).await;
        assert_eq!(got, code, "{reason}");
        assert!(reason.contains(words), "{reason}");
        assert!(!reason.contains(&token));
        guest.close().await;
    }
}

#[tokio::test]
async fn a_refusal_of_the_vault_is_told_from_one_of_the_server() {
    let vault = lap_test::web::serve(None, |_| async {
        let mut answer = lap_test::web::text(http::StatusCode::FORBIDDEN, "text/plain", "no");
        answer.headers_mut().insert("x-lap-blocked", http::HeaderValue::from_static("denied"));
        answer
    });
    let vault = vault.await.expect("a free port");
    let mut guest = Guest::start().await;
    let url = format!("http://{}/a.git", vault.address);
    let (code, reason) = guest.boot_fails(GuestBoot { repo: Some(repo(&url, None)), ..boot() }).await;
    assert_eq!(code, "repo_blocked");
    assert!(reason.contains("denied") && reason.contains("allow_out"), "{reason}");
    guest.close().await;
}

#[tokio::test]
async fn an_empty_repository_is_a_good_start() {
    let (ca, server, _) = with_git().await;
    let bare = server.create("empty", &[]);
    git(bare.path(), &["update-ref", "-d", "refs/heads/main"]);
    let mut guest = trusting(&ca).await;
    let repo = Repo { branch: "trunk".to_owned(), ..repo(&server.url("localhost", "empty"), server.token()) };
    let reports = guest.boot(GuestBoot { repo: Some(repo), ..boot() }).await;
    assert_eq!(cloned(&reports), (Some("trunk".to_owned()), None));
    let said = answer(&guest.run("t1", "git commit -q --allow-empty -m First && git branch").await);
    assert!(said.contains("* trunk"), "{said}");
    guest.close().await;
}

#[tokio::test]
async fn the_tree_of_an_earlier_sandbox_is_kept() {
    let (ca, server, _) = with_git().await;
    let with_repo = || GuestBoot { repo: Some(repo(&server.url("localhost", "shop"), server.token())), ..boot() };
    let mut guest = trusting(&ca).await;
    guest.boot(with_repo()).await;
    guest.run("t1", "echo mine > new.txt && git checkout -q -b work").await;
    let root = guest.close().await;
    let seen = server.requests().len();
    let mut guest = Guest::start_in(root).await;
    let reports = guest.boot(with_repo()).await;
    assert_eq!(cloned(&reports).0.as_deref(), Some("work"));
    assert_eq!(answer(&guest.run("t2", "cat new.txt").await), "mine\n");
    assert_eq!(server.requests().len(), seen);
    guest.close().await;
}

#[tokio::test]
async fn a_killed_clone_is_made_again() {
    let (ca, server, _) = with_git().await;
    let mut guest = trusting(&ca).await;
    std::fs::create_dir_all(guest.layout.repo().join(".git/objects/pack")).expect("a folder");
    std::fs::write(guest.layout.repo().join(".git/objects/pack/tmp_pack_x"), "half").expect("a file");
    let repo = repo(&server.url("localhost", "shop"), server.token());
    let reports = guest.boot(GuestBoot { repo: Some(repo), ..boot() }).await;
    assert_eq!(cloned(&reports).0.as_deref(), Some("main"));
    assert_eq!(git(&guest.layout.repo(), &["status", "--porcelain"]), "");
    guest.close().await;
}

#[tokio::test]
async fn a_turn_of_the_shell_streams_and_ends_with_its_output() {
    let mut guest = Guest::start().await;
    guest.boot(boot()).await;
    let reports = guest.run("t1", "printf 'ä'; echo b >&2; pwd").await;
    let expect = format!("äb\n{}\n", guest.layout.repo().display());
    assert!(matches!(&reports[0], Report::TurnStarted { turn_id } if turn_id == "t1"));
    assert_eq!(said(&reports, DeltaKind::Text), expect);
    assert_eq!(answer(&reports), expect);
    assert_eq!(answer(&guest.run("t2", "exit 3").await), "[ended with status 3]\n");
    guest.close().await;
}

#[tokio::test]
async fn a_turn_runs_at_most_once() {
    let mut guest = Guest::start().await;
    guest.boot(boot()).await;
    guest.run("t1", "echo once >> ran").await;
    guest.turn("t1", "echo twice >> ran").await;
    assert_eq!(answer(&guest.run("t2", "cat ran").await), "once\n");
    guest.close().await;
}

#[tokio::test]
async fn an_abort_ends_what_runs_and_what_waits() {
    let mut guest = Guest::start().await;
    guest.boot(boot()).await;
    guest.turn("t1", "echo begun; sleep 1000").await;
    guest.until(|report| matches!(report, Report::Delta { .. })).await;
    guest.turn("t2", "echo never").await;
    guest.send(ToGuest::Abort { turn_id: "t2".to_owned() }).await;
    assert_eq!(failure(&guest.end("t2").await).0, "aborted");
    guest.send(ToGuest::Abort { turn_id: "t1".to_owned() }).await;
    assert_eq!(failure(&guest.end("t1").await).0, "aborted");
    assert_eq!(answer(&guest.run("t3", "echo after").await), "after\n");
    guest.close().await;
}

#[tokio::test]
async fn long_output_is_cut_and_says_so() {
    let mut guest = Guest::start().await;
    guest.boot(boot()).await;
    let reports = guest.run("t1", "head -c 3000000 /dev/zero | tr '\\0' x").await;
    let text = answer(&reports);
    assert!(text.len() < 300_000 && text.contains("[… cut: "), "{} bytes", text.len());
    guest.close().await;
}

#[tokio::test]
async fn nothing_outlives_the_link() {
    let mut guest = Guest::start().await;
    guest.boot(boot()).await;
    let mark = guest.root().display().to_string();
    guest.run("t1", "sleep 1000 >/dev/null 2>&1 &").await;
    guest.turn("t2", "echo begun; sleep 1000").await;
    guest.until(|report| matches!(report, Report::Delta { .. })).await;
    let root = guest.close().await;
    // A killed process is gone once the kernel has taken its memory apart.
    let gone = async {
        while !kit::processes(&mark).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), gone).await.expect("no process is left");
    drop(root);
}

#[tokio::test]
async fn requirements_get_an_environment_of_their_own() {
    let ca = TestCa::new("test authority");
    let mut guest = trusting(&ca).await;
    let reports = guest.boot(GuestBoot { requirements: Some("# nothing yet\n".to_owned()), ..boot() }).await;
    assert!(phases(&reports).contains(&"installing_deps".to_owned()));
    let prefix = answer(&guest.run("t1", "python -c 'import sys; print(sys.prefix)'").await);
    assert_eq!(prefix.trim(), guest.layout.venv().display().to_string());
    guest.close().await;

    let mut guest = trusting(&ca).await;
    let wrong = GuestBoot { requirements: Some("not a requirement\n".to_owned()), ..boot() };
    let (code, reason) = guest.boot_fails(wrong).await;
    assert_eq!(code, "requirements_failed");
    assert!(reason.contains("not a requirement"), "{reason}");
    guest.close().await;
}
