//! The server as an ordinary user of the machine: the same sandboxes and the same vault, where the kernel allows it.

use std::os::unix::fs::PermissionsExt as _;

use lap_api::session::CreateSession;
use lap_test::ca::TestCa;
use lap_test::echo::Echo;
use lap_test::server::LapServer;

use crate::world::{ECHO_HOST, PATIENCE, binary, leftovers, say, shell_agent, vars, words};

/// `nobody`, who owns nothing.
const NOBODY: u32 = 65534;

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_work_without_root() {
    let ca = TestCa::new("LAP test CA");
    let echo = Echo::start(&ca, &[]).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("mine");
    // The build may stand where only root looks.
    let program = folder.path().join("lap");
    std::fs::copy(binary(), &program).expect("there is room");
    let ca_file = ca.write(folder.path()).expect("mine");
    std::fs::set_permissions(&ca_file, std::fs::Permissions::from_mode(0o644)).expect("mine");
    let data_dir = folder.path().join("data");
    let env = [
        ("LAP_TEST_HARNESSES", "true".to_owned()),
        ("LAP_VAULT_EXTRA_CA", ca_file.display().to_string()),
        ("LAP_VAULT_RESOLVE", format!("{ECHO_HOST}=127.0.0.1")),
        ("LAP_VAULT_PRIVATE_ALLOW", format!("{ECHO_HOST}:{}", echo.https_port())),
    ];
    let server =
        LapServer::start_as(NOBODY, &program, &data_dir, &env).await.unwrap_or_else(|problem| panic!("{problem}"));
    let client = server.client();
    let mut blueprint = shell_agent();
    blueprint.env_vars = vars([("SERVICE_TOKEN", "the-real-service-token-0001")]);
    blueprint.env_var_hosts = [("SERVICE_TOKEN".to_owned(), vec![format!("{ECHO_HOST}:{}", echo.https_port())])].into();
    let agent = client.create_agent(&blueprint).await.expect("created");
    let session = client.create_session(&agent.id, &CreateSession::default()).await.expect("opened");
    let session = client.session_when_ready(&session.id, PATIENCE).await.expect("there");
    assert_eq!(session.status, "ready", "{:?}\n{}", session.failure_reason, server.log());
    let command = format!(
        "id -u; hostname; ls /root /var/lib 2>&1 | wc -l; grep CapEff /proc/self/status; \
         curl -sS -o /dev/null -w '%{{http_code}}\\n' -H \"Authorization: Bearer $SERVICE_TOKEN\" https://{ECHO_HOST}:{}/echo; \
         curl -sS -m 5 http://127.0.0.1:{}/ 2>&1 | tail -1",
        echo.https_port(),
        echo.http_port()
    );
    let said = words(&client.message(&session.id, &say(&command), None).await.expect("an answer"));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], ["1000", "sandbox"], "{said}");
    assert!(said.contains("CapEff:\t0000000000000000") && said.contains("\n200\n"), "{said}");
    assert!(lines.last().is_some_and(|last| last.contains("curl: (7)")), "the machine's loopback is closed: {said}");
    let request = echo.last().expect("it arrived");
    assert_eq!(request.header("authorization"), Some("Bearer the-real-service-token-0001"));
    server.delete_everything().await.unwrap_or_else(|problem| panic!("{problem}"));
    assert!(server.stop().await.expect("it stops").success());
    let left = leftovers(&data_dir);
    assert!(left.is_empty(), "left behind: {left:#?}");
}
