//! What programs do every day works inside.

use crate::kit::Kit;

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_a_place_to_work() {
    let mut kit = Kit::new().await;
    let mut inside = kit.sandbox("daily").await;
    assert_eq!(inside.token, "token-of-daily");
    for (what, command, expected) in [
        ("who", "id -un; id -u; hostname; pwd", "agent\n1000\nsandbox\n/work"),
        ("home", "cd ~ && pwd && echo hi > f && cat f", "/home/agent\nhi"),
        (
            "files of all kinds",
            "cd /work && mkdir -p a/b && echo x > a/b/c && ln a/b/c d && ln -s d e && mv a g && cat e",
            "x",
        ),
        ("programs from /tmp", "printf '#!/bin/sh\\necho ran' > /tmp/p && chmod +x /tmp/p && /tmp/p", "ran"),
        (
            "git",
            "cd /work && git init -q r && cd r && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x && git log --format=%s",
            "x",
        ),
        ("names", "getent hosts example.com | cut -d' ' -f1", "198.18.0.7"),
        ("plain web", "curl -s http://example.com/", "from the sidecar"),
        ("any port", "curl -s http://203.0.113.9:8123/", "from the sidecar"),
        ("IPv6", "curl -s 'http://[2001:db8::1]:99/'", "from the sidecar"),
        ("a proxy by name", "curl -s -x http://198.18.0.1:3128 http://example.com/", "from the sidecar"),
        ("terminals", "script -qec 'test -t 0 && echo tty' /dev/null | tr -d '\\r'", "tty"),
        (
            "own services",
            "perl -MIO::Socket -e '$l=IO::Socket::INET->new(Listen=>1,LocalAddr=>\"127.0.0.1\",LocalPort=>8000)||die; if(!fork){$c=$l->accept;print $c \"mine\\n\";exit} $s=IO::Socket::INET->new(PeerAddr=>\"127.0.0.1\",PeerPort=>8000)||die; print <$s>'",
            "mine",
        ),
        (
            "own services, IPv6",
            "perl -MIO::Socket::IP -e '$l=IO::Socket::IP->new(Listen=>1,LocalHost=>\"::1\",LocalPort=>8001)||die; if(!fork){$c=$l->accept;print $c \"mine\\n\";exit} $s=IO::Socket::IP->new(PeerHost=>\"::1\",PeerPort=>8001)||die; print <$s>'",
            "mine",
        ),
        ("threads and pipes", "seq 1000 | xargs -P 4 -n 100 echo | wc -w", "1000"),
        ("shared memory", "echo s > /dev/shm/x && cat /dev/shm/x", "s"),
        ("orphans are buried", "sh -c 'sleep 0.01 &' ; sleep 0.1; ps -eo stat= | grep -c Z || true", "0"),
        (
            "certificates of the machine",
            "test ! -e /etc/ssl/certs/ca-certificates.crt && mkdir -p /run/lap/tls && cp /etc/ssl/lap-system.pem /run/lap/tls/ca-certificates.crt && test -e /etc/ssl/certs/ca-certificates.crt && echo same",
            "same",
        ),
        (
            "environment",
            "env | cut -d= -f1 | grep -v -e PWD -e _ | sort | tr '\\n' ' '",
            "HOME LANG LOGNAME PATH SHELL USER",
        ),
    ] {
        let (status, output) = inside.run(command).await;
        assert_eq!((status, output.trim()), (0, expected), "{what}: `{command}`");
    }
    kit.destroy("daily").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_of_the_node_appear_read_only() {
    use lap_sandbox::{Backend, ToolMount};
    let mut kit = Kit::new().await;
    let source = kit.data.join("harnesses/x/1");
    std::fs::create_dir_all(&source).expect("a folder");
    std::fs::write(source.join("tool"), "#!/bin/sh\necho tool\n").expect("a file");
    std::fs::set_permissions(source.join("tool"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("a program");
    let mut spec = crate::kit::spec("tools", crate::kit::LIMITS);
    spec.tools = vec![ToolMount { source, name: "harness".to_owned() }];
    kit.backend.provision(&spec).await.expect("provision");
    let mut inside = kit.arrival("tools").await;
    assert_eq!(inside.ok("/opt/lap/harness/tool").await, "tool");
    let (status, _) = inside.run("echo x > /opt/lap/harness/y").await;
    assert_ne!(status, 0);
    kit.destroy("tools").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_guest_is_the_end_of_the_sandbox() {
    use lap_sandbox::Backend;
    let mut kit = Kit::new().await;
    let mut exits = kit.backend.exits();
    let mut inside = kit.sandbox("ends").await;
    inside.ok("(sleep 1000 >/dev/null 2>&1 &)").await;
    inside.ok("!log 1 last words").await;
    inside.hang_up("kill -9 2").await;
    let exit = tokio::time::timeout(crate::kit::PATIENCE, exits.recv()).await.expect("an exit in time").expect("exits");
    assert_eq!(exit.id.as_str(), "ends");
    assert_eq!(kit.log("ends").await, "last words");
    assert!(exit.detail.contains("last words"), "{}", exit.detail);
    kit.destroy("ends").await;
}
