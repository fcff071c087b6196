//! `lap admin rotate-key`, the built program: refused while a server runs, killed at every step and run again, with the key
//! in a file and in the environment.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lap_domain::agent::{self, NewAgent};
use lap_domain::files::SandboxFile;
use lap_domain::ids::AgentId;
use lap_domain::secret::Secret;
use lap_domain::time::Timestamp;
use lap_store::{EncryptionKey, Store};
use lap_test::server::LapServer;

const AGENTS: usize = 120;
const KEY: &str = "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1";
const NEW_KEY: &str = "b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2";

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_lap"))
}

fn parsed(digits: &str) -> EncryptionKey {
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("digits");
    let bytes: Vec<u8> = (0..64).step_by(2).map(byte).collect();
    EncryptionKey::new(bytes.as_slice().try_into().expect("32 bytes"))
}

/// A data folder whose database holds many agents.
async fn data_folder() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("encryption.key");
    std::fs::write(&file, KEY).expect("mine");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("mine");
    let store = Store::open(&folder.path().join("lap.db"), parsed(KEY)).await.expect("a fresh database");
    for number in 0..AGENTS {
        let new = NewAgent {
            model: Some("m".into()),
            env_vars: [("A_TOKEN".to_owned(), Secret::new(format!("the-value-{number}")))].into(),
            ..NewAgent::default()
        };
        let mut agent =
            agent::create(new, AgentId::new(format!("a{number}")), &["opencode"], Timestamp(1)).expect("valid");
        agent.sandbox_files = vec![SandboxFile {
            name: "f".into(),
            sandbox_path: "~/f".into(),
            content: vec![b'c'; 20_000],
            content_type: "text/plain".into(),
            size: 20_000,
        }];
        store.insert_agent(&agent).await.expect("inserts");
    }
    store.close().await;
    folder
}

fn rotate(folder: &Path, env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary());
    command.args(["admin", "rotate-key"]).env_clear().env("LAP_DATA_DIR", folder).envs(env.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end: exit code and everything it said.
fn run(folder: &Path, env: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = rotate(folder, env).output().expect("it runs");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code(), said)
}

/// Kills it with -9 when it has said so many lines; none when it had fewer to say.
fn killed_after(folder: &Path, lines: usize) -> Option<String> {
    let mut child = rotate(folder, &[]).spawn().expect("it runs");
    let mut said = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let last = said.by_ref().nth(lines - 1);
    child.kill().expect("mine");
    child.wait().expect("it ends");
    last.map(|line| line.expect("text"))
}

/// Everything is there under the key of the folder.
async fn check_whole(folder: &Path, key: &str) {
    let store = Store::open(&folder.join("lap.db"), parsed(key)).await.expect("the key fits");
    for number in 0..AGENTS {
        let agent = store.agent(&AgentId::new(format!("a{number}"))).await.expect("reads");
        assert_eq!(agent.env_vars["A_TOKEN"].expose(), &format!("the-value-{number}"));
        assert_eq!(agent.sandbox_files[0].content.len(), 20_000);
    }
    store.close().await;
}

fn key_in(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("encryption.key")).expect("there")
}

fn next_key(folder: &Path) -> PathBuf {
    folder.join("encryption.next.key")
}

#[tokio::test]
async fn killed_at_any_line_and_run_again_it_loses_nothing() {
    let mut steps = Vec::new();
    for lines in 1.. {
        let data = data_folder().await;
        let Some(line) = killed_after(data.path(), lines) else { break };
        steps.push(line);
        // Whatever it had done: the key in its place or the one beside it opens everything.
        let (code, said) = run(data.path(), &[]);
        assert_eq!(code, Some(0), "killed after {lines} lines: {said}");
        assert!(!next_key(data.path()).exists(), "{said}");
        assert_ne!(key_in(data.path()), KEY, "{said}");
        check_whole(data.path(), &key_in(data.path())).await;
    }
    assert!(steps.len() >= 5 && steps[0].contains("encrypting"), "{steps:#?}");
}

#[tokio::test]
async fn a_server_finishes_a_rotation_that_lacked_only_its_last_step() {
    use std::os::unix::fs::PermissionsExt as _;
    let data = data_folder().await;
    lap_store::rotate(&data.path().join("lap.db"), &parsed(KEY), &parsed(NEW_KEY), |_| ()).await.expect("rotates");
    std::fs::write(next_key(data.path()), NEW_KEY).expect("mine");
    std::fs::set_permissions(next_key(data.path()), std::fs::Permissions::from_mode(0o600)).expect("mine");
    let server = LapServer::start(binary(), data.path(), &[]).await.unwrap_or_else(|problem| panic!("{problem}"));
    assert_eq!(key_in(data.path()), NEW_KEY);
    // A second one beside a server is refused, naming it.
    let (code, said) = run(data.path(), &[]);
    let pid = server.pid().expect("it runs").to_string();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("process {pid}")) && said.contains("stop it first"), "{said}");
    assert!(server.stop().await.expect("it stops").success());
    check_whole(data.path(), NEW_KEY).await;
    let (code, said) = run(data.path(), &[]);
    assert_eq!(code, Some(0), "{said}");
    check_whole(data.path(), &key_in(data.path())).await;
}

#[tokio::test]
async fn a_key_of_the_environment_gives_way_to_one_of_the_environment() {
    let data = data_folder().await;
    std::fs::remove_file(data.path().join("encryption.key")).expect("there");
    let check = |env: &[(&str, &str)], code: i32, words: &[&str]| {
        let (got, said) = run(data.path(), env);
        assert_eq!(got, Some(code), "{said}");
        for word in words {
            assert!(said.contains(word), "`{word}` is not in: {said}");
        }
        assert!(!said.contains(KEY) && !said.contains(NEW_KEY), "no key is printed: {said}");
    };
    check(&[("LAP_ENCRYPTION_KEY", KEY)], 2, &["LAP_ENCRYPTION_KEY_NEW"]);
    check(&[("LAP_ENCRYPTION_KEY_NEW", KEY)], 2, &["LAP_ENCRYPTION_KEY is not"]);
    check(&[("LAP_ENCRYPTION_KEY", KEY), ("LAP_ENCRYPTION_KEY_NEW", "zz")], 2, &["64 hexadecimal digits"]);
    let ids = [parsed(KEY).id().to_string(), parsed(NEW_KEY).id().to_string()];
    let wrong = "c3".repeat(32);
    check(&[("LAP_ENCRYPTION_KEY", &wrong), ("LAP_ENCRYPTION_KEY_NEW", NEW_KEY)], 1, &[&ids[0], "does not fit"]);
    let both = [("LAP_ENCRYPTION_KEY", KEY), ("LAP_ENCRYPTION_KEY_NEW", NEW_KEY)];
    check(&both, 0, &[&ids[1], "put it into LAP_ENCRYPTION_KEY"]);
    check(&both, 0, &["already"]);
    check_whole(data.path(), NEW_KEY).await;
    assert!(!data.path().join("encryption.key").exists() && !next_key(data.path()).exists());
}

#[test]
fn where_there_is_no_database_it_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, said) = run(folder.path(), &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no database") && said.contains("--data-dir"), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("mine").count(), 0, "and makes nothing");
}
