//! Canary secrets: searched wherever a sandbox can look, and everywhere on disk.

use std::process::Command;

use lap_api::session::CreateSession;
use lap_test::canary::Canary;

use crate::world::{ECHO_HOST, Needs, World, shell_agent, vars};

/// Looks, as the agent could, at the environment, command line, open files and memory of every process but itself, and at
/// every file of the sandbox, for a text given in two halves so that neither shell nor search holds the whole elsewhere.
const LOOK: &str = r#"python3 - "$A" "$B" <<'PY'
import glob, os, re, sys
needle = (sys.argv[1] + sys.argv[2]).encode()
own, looked, kept_out = str(os.getpid()), 0, 0
def look(path, where):
    global looked, kept_out
    try:
        with open(path, 'rb') as file:
            tail = b''
            while chunk := file.read(1 << 20):
                looked += len(chunk)
                if needle in tail + chunk:
                    print('FOUND in', where)
                    return
                tail = chunk[-len(needle):]
    except OSError:
        kept_out += 1
def look_at_memory(pid):
    global looked, kept_out
    try:
        maps = open('/proc/%s/maps' % pid).read().splitlines()
        memory = open('/proc/%s/mem' % pid, 'rb', 0)
    except OSError:
        kept_out += 1
        return
    for line in maps:
        match = re.match(r'([0-9a-f]+)-([0-9a-f]+) r', line)
        if not match:
            continue
        start, end = (int(part, 16) for part in match.groups())
        try:
            memory.seek(start)
            data = memory.read(min(end - start, 64 << 20))
        except (OSError, ValueError, OverflowError):
            continue
        looked += len(data)
        if needle in data:
            print('FOUND in the memory of', pid, line)
for pid in filter(str.isdigit, os.listdir('/proc')):
    for name in ('environ', 'cmdline', 'maps', 'status'):
        look('/proc/%s/%s' % (pid, name), '/proc/%s/%s' % (pid, name))
    if pid != own:
        look_at_memory(pid)
    for fd in glob.glob('/proc/%s/fd/*' % pid):
        if os.path.isfile(fd):
            look(fd, fd)
for top in ('/work', '/home', '/tmp', '/run', '/etc', '/dev/shm', '/var'):
    for folder, _, files in os.walk(top):
        for name in files:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                look(path, path)
print('looked at', looked, 'bytes, kept out of', kept_out)
PY
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_real_value_is_nowhere_a_sandbox_can_look_and_nowhere_on_disk() {
    let (of_agent, of_session, of_platform) =
        (Canary::new("agent_"), Canary::new("session_"), Canary::new("platform_"));
    let world = World::with_env(Needs::Shell, &[("GIT_TOKEN", of_platform.secret())]).await;
    let mut blueprint = shell_agent();
    blueprint.env_vars = vars([("AGENT_TOKEN", of_agent.secret())]);
    let echo = format!("{ECHO_HOST}:{}", world.echo.https_port());
    blueprint.env_var_hosts = [("AGENT_TOKEN".to_owned(), vec![echo.clone()])].into();
    let agent = world.agent(blueprint).await;
    let new = CreateSession {
        env_vars: vars([("SESSION_TOKEN", of_session.secret())]),
        env_var_hosts: [("SESSION_TOKEN".to_owned(), vec![echo.clone()])].into(),
        ..CreateSession::default()
    };
    let session = world.ready(&agent, new).await;

    // Both are used for real first, so that they have been wherever they go.
    for name in ["AGENT_TOKEN", "SESSION_TOKEN"] {
        let curl = format!(
            "curl -sS -o /dev/null -w '%{{http_code}}' -H \"Authorization: Bearer ${name}\" https://{echo}/echo"
        );
        assert_eq!(world.ask(&session, &curl).await.trim(), "200");
    }
    for canary in [&of_agent, &of_session] {
        let arrived = world
            .echo
            .requests()
            .iter()
            .any(|request| request.header("authorization").is_some_and(|value| value.contains(canary.secret())));
        assert!(arrived, "the upstream got the real value");
    }

    let gateway_key = world.gateway.key().to_owned();
    for secret in [of_agent.secret(), of_session.secret(), of_platform.secret(), &gateway_key] {
        let (a, b) = secret.split_at(secret.len() / 2);
        let found = world.ask(&session, &format!("A='{a}'; B='{b}'; {LOOK}")).await;
        assert!(found.contains("looked at") && !found.contains("FOUND"), "{found}");
    }

    // The searches themselves put halves into the log, never a whole. On disk: database, logs, everything.
    for canary in [&of_agent, &of_session, &of_platform] {
        canary.assert_not_in_path(world.data_dir());
    }
    let volume = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "grep -a -F -l -e '{}' -e '{}' /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | grep -v self",
            of_agent.secret(),
            of_session.secret()
        ))
        .output()
        .expect("sh is there");
    // Only this search itself and nothing else has it in its arguments.
    let holders = String::from_utf8_lossy(&volume.stdout);
    for holder in holders.lines() {
        let argv = std::fs::read(holder).unwrap_or_default();
        let argv = String::from_utf8_lossy(&argv).into_owned();
        assert!(argv.is_empty() || argv.contains("grep"), "{holder}: {argv}");
    }

    // The API never shows them either.
    let shown = serde_json::to_string(&world.client.agent(&agent.id).await.expect("there")).expect("plain data");
    assert!(shown.contains("********"), "{shown}");
    of_agent.assert_not_in_bytes("the agent's answer", &shown);
    let events = world.client.all_events(&session.id).await.expect("the log");
    for canary in [&of_agent, &of_session, &of_platform] {
        for event in &events {
            canary.assert_not_in_bytes("an event", &event.raw);
        }
    }
    let mut keys = world.client.vault_keys(&session.id).await.expect("names");
    keys.sort();
    assert_eq!(keys, ["AGENT_TOKEN", "GIT_TOKEN", "LITELLM_API_KEY", "SESSION_TOKEN"]);
    world.end().await;
}
