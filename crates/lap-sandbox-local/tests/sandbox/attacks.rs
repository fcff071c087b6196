//! A hostile program inside tries to get out, to look out, or to break what is shared. Every attempt must fail.
//!
//! Each attempt is a command that exits 0 only when it has succeeded.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::kit::{Inside, Kit};

/// A system call by perl, successful when it does not return an error.
fn call(number: i64, arguments: &str) -> String {
    let comma = if arguments.is_empty() { "" } else { ", " };
    format!("perl -e 'my $b = \"\\0\" x 256; exit(syscall({number}{comma}{arguments}) < 0 ? 1 : 0)'")
}

async fn refused(inside: &mut Inside, name: &str, command: &str) {
    let (status, output) = inside.run(command).await;
    assert_ne!(status, 0, "{name}: `{command}` succeeded: {output}");
    assert!(!output.contains("command not found") && status != 127, "{name}: `{command}` could not be tried: {output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn system_calls() {
    let mut kit = Kit::new().await;
    let mut inside = kit.sandbox("calls").await;
    // The way of trying works.
    inside.ok(&call(libc::SYS_getpid, "")).await;
    inside.ok(&call(libc::SYS_socket, "1, 1, 0")).await;
    inside.ok(&call(libc::SYS_socket, "2, 1, 6")).await;
    inside.ok(&call(libc::SYS_socket, "10, 2, 17")).await;
    for (name, number, arguments) in [
        ("ptrace itself", libc::SYS_ptrace, "0, 0, 0, 0"),
        ("ptrace init", libc::SYS_ptrace, "16, 1, 0, 0"),
        ("read another process", libc::SYS_process_vm_readv, "getppid(), $b, 1, $b, 1, 0"),
        ("compare processes", libc::SYS_kcmp, "1, getppid(), 0, 0, 0"),
        ("new user namespace", libc::SYS_unshare, "0x10000000"),
        ("new mount namespace", libc::SYS_unshare, "0x00020000"),
        ("new network namespace", libc::SYS_unshare, "0x40000000"),
        ("new pid namespace", libc::SYS_unshare, "0x20000000"),
        ("new time namespace", libc::SYS_unshare, "0x00000080"),
        ("clone with a user namespace", libc::SYS_clone, "0x10000011, 0, 0, 0, 0"),
        ("clone3", libc::SYS_clone3, "$b, 88"),
        ("mount", libc::SYS_mount, "\"none\", \"/tmp\", \"tmpfs\", 0, 0"),
        ("unmount", libc::SYS_umount2, "\"/proc/sys\", 2"),
        ("change root", libc::SYS_chroot, "\"/tmp\""),
        ("pivot root", libc::SYS_pivot_root, "\"/\", \"/\""),
        ("new mount interface", libc::SYS_fsopen, "\"tmpfs\", 0"),
        ("open a tree", libc::SYS_open_tree, "-100, \"/\", 1"),
        ("file handles", libc::SYS_open_by_handle_at, "-100, $b, 0"),
        ("kernel keys", libc::SYS_keyctl, "0, -3, 1"),
        ("add a key", libc::SYS_add_key, "\"user\", \"x\", \"y\", 1, -3"),
        ("BPF", libc::SYS_bpf, "0, $b, 120"),
        ("performance counters", libc::SYS_perf_event_open, "$b, 0, -1, -1, 0"),
        ("user fault handling", libc::SYS_userfaultfd, "1"),
        ("io_uring", libc::SYS_io_uring_setup, "1, $b"),
        ("load a kernel", libc::SYS_kexec_load, "0, 0, 0, 0"),
        ("load a module", libc::SYS_init_module, "$b, 256, \"\""),
        ("reboot", libc::SYS_reboot, "0xfee1dead, 672274793, 0, 0"),
        ("swap", libc::SYS_swapoff, "\"/work/x\""),
        ("set the clock", libc::SYS_clock_settime, "0, $b"),
        ("kernel log", libc::SYS_syslog, "10, 0, 0"),
        ("host name", libc::SYS_sethostname, "\"x\", 1"),
        ("accounting", libc::SYS_acct, "0"),
        ("watch all files", libc::SYS_fanotify_init, "0, 0"),
        ("virtual machine sockets", libc::SYS_socket, "40, 1, 0"),
        ("kernel crypto sockets", libc::SYS_socket, "38, 5, 0"),
        ("packet sockets", libc::SYS_socket, "17, 3, 0"),
        ("raw sockets", libc::SYS_socket, "2, 3, 1"),
        ("bluetooth", libc::SYS_socket, "31, 1, 0"),
        ("another transport", libc::SYS_socket, "2, 1, 132"),
        ("another transport over IPv6", libc::SYS_socket, "10, 2, 136"),
        ("netfilter", libc::SYS_socket, "16, 3, 12"),
        ("kernel events", libc::SYS_socket, "16, 3, 15"),
        ("audit", libc::SYS_socket, "16, 3, 9"),
        ("become root", libc::SYS_setuid, "0"),
        ("become somebody", libc::SYS_setresuid, "1, 1, 1"),
        ("join groups", libc::SYS_setgroups, "0, 0"),
        ("real-time scheduling", libc::SYS_sched_setscheduler, "0, 1, pack(\"i\", 99)"),
        ("take an old descriptor", libc::SYS_pidfd_getfd, "0, 0, 0"),
        ("message queues", libc::SYS_mq_open, "\"x\", 66, 0600, 0"),
        ("type into terminals", libc::SYS_ioctl, "0, 0x5412, $b"),
    ] {
        refused(&mut inside, name, &call(number, arguments)).await;
    }
    #[cfg(target_arch = "x86_64")]
    for (name, number, arguments) in [
        ("input and output ports", libc::SYS_iopl, "3"),
        ("the x32 way to ptrace", 0x4000_0000 + 521, "0, 0, 0, 0"),
        ("the x32 way to unshare", 0x4000_0000 + libc::SYS_unshare, "0x10000000"),
    ] {
        refused(&mut inside, name, &call(number, arguments)).await;
    }
    kit.destroy("calls").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_machine() {
    let mut kit = Kit::new().await;
    let mut inside = kit.sandbox("files").await;
    for (name, command) in [
        ("passwords", "cat /etc/shadow"),
        ("root's home", "ls -A /root | grep ."),
        ("other homes", "ls /home | grep -v '^agent$'"),
        ("data of services", "ls -A /var/lib | grep ."),
        ("runtime of services", "ls -A /run | grep -v -x -e lap -e lock"),
        ("configuration below /usr", "ls -A /usr/local/etc | grep ."),
        ("network configuration", "ls /etc/network /etc/ssh /etc/ssl/private/* 2>&1 | grep -v 'No such'"),
        ("package managers' credentials", "ls /etc/apt /etc/npmrc /etc/pip.conf 2>&1 | grep -v 'No such'"),
        ("real accounts", "grep -v -e ^root -e ^agent -e ^nobody /etc/passwd"),
        ("change a program", "echo x >> /usr/bin/env"),
        ("add a program", "touch /usr/local/bin/x"),
        ("change configuration", "touch /etc/x"),
        ("change our program", "cp /bin/true /opt/lap/bin/lap"),
        ("replace the root", "mkdir /x || mv /etc /etc2"),
        ("remount", "mount -o remount,rw /"),
        ("bind", "mount --bind /work /usr"),
        (
            "disks",
            "cat /dev/vda /dev/sda /dev/loop0 /dev/loop-control /dev/mem /dev/kvm /dev/fuse 2>/dev/null | grep -q .",
        ),
        ("make a device", "mknod /work/vda b 254 0 || mknod /work/null c 1 3"),
        (
            "more devices",
            "ls /dev | grep -v -x -e fd -e full -e null -e ptmx -e pts -e random -e shm -e stderr -e stdin -e stdout -e tty -e urandom -e zero",
        ),
        ("kernel objects", "ls -A /sys | grep ."),
        ("kernel memory", "head -c 1 /proc/kcore | grep -q ."),
        ("kernel symbols", "grep -q . /proc/kallsyms"),
        ("kernel settings", "echo 1 > /proc/sys/kernel/panic || echo x > /proc/sys/kernel/core_pattern"),
        (
            "own namespaces' settings",
            "echo 1 > /proc/sys/net/ipv4/ip_forward || echo 9 > /proc/sys/user/max_user_namespaces",
        ),
        ("system requests", "echo b > /proc/sysrq-trigger && false || echo x > /proc/sys/kernel/sysrq"),
        (
            "bus devices",
            "ls -A /proc/bus/pci 2>/dev/null | head -1 | xargs -I{} sh -c 'echo x > /proc/bus/pci/{}' ; test -w /proc/bus/pci/devices",
        ),
        ("interrupts", "echo 1 > /proc/irq/default_smp_affinity"),
        ("control groups", "mkdir /tmp/c && mount -t cgroup2 none /tmp/c"),
        ("set-uid programs", "cp /bin/sh /work/s && chmod 4755 /work/s && su -c true"),
        ("give files away", "touch /work/g && chown 0 /work/g"),
        ("escape by links", "ln -s /proc/1/root /work/r && ls /work/r/"),
        ("escape by init's folder", "ls /proc/1/cwd/ || ls /proc/1/root/ || ls /proc/1/fd/"),
        ("escape by parents", "ls -d /../../../../../../work/../root/.ssh"),
        ("raise limits", "ulimit -n 100000 || ulimit -Hc unlimited"),
        ("core files", "ulimit -c 1"),
    ] {
        refused(&mut inside, name, command).await;
    }
    kit.destroy("files").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_of_the_machine() {
    let mut kit = Kit::new().await;
    let mut inside = kit.sandbox("processes").await;
    for (name, command) in [
        (
            "see others",
            "ls /proc | grep -x '[0-9]*' | while read p; do tr '\\0' ' ' < /proc/$p/cmdline; echo; done | grep -e '[s]idecar' -e '[c]argo'",
        ),
        ("kill init", "kill -9 1; kill -TERM 1; kill -STOP 1; sleep 0.05; grep -q 'State:.[TZX]' /proc/1/status"),
        ("init's memory", "head -c 1 /proc/1/mem || cat /proc/1/maps | grep -q ."),
        ("init's environment", "cat /proc/1/environ | grep -q ."),
        ("more priority", "nice -n -5 true 2>&1 | grep -v 'cannot set' && test $(nice -n -5 nice) -lt 0"),
        ("spare itself from the out-of-memory killer", "echo -1000 > /proc/self/oom_score_adj"),
    ] {
        refused(&mut inside, name, command).await;
    }
    // The proof that init took none of it: the sandbox still answers.
    inside.ok("true").await;
    assert_eq!(inside.ok("grep -c . /proc/self/cgroup >/dev/null; grep -e CapEff -e CapBnd -e CapPrm /proc/self/status | grep -c 0000000000000000").await, "3");
    assert_eq!(
        inside.ok("grep NoNewPrivs /proc/self/status | cut -f2; grep ^Seccomp: /proc/self/status | cut -f2").await,
        "1\n2"
    );
    kit.destroy("processes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_of_the_machine() {
    let mut kit = Kit::new().await;
    let name = format!("lap-attack-{}", std::process::id());
    let abstract_name = SocketAddr::from_abstract_name(&name).expect("a name");
    let _abstract = UnixListener::bind_addr(&abstract_name).expect("a socket");
    let local = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let port = local.local_addr().expect("an address").port();
    let link = kit.data.join("run/link.sock");
    let mut inside = kit.sandbox("network").await;
    let unix = |address: &str| {
        format!(
            "perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0); exit(connect(S, pack(\"S a*\", 1, {address})) ? 0 : 1)'"
        )
    };
    for (what, command) in [
        ("an abstract socket of the machine", unix(&format!("\"\\0{name}\""))),
        ("the server's socket", unix(&format!("\"{}\"", link.display()))),
        ("the machine's containers", unix("\"/run/docker.sock\"")),
        ("a service of the machine", format!("curl -s -m 5 telnet://127.0.0.1:{port} </dev/null")),
        ("a service of the machine, IPv6", format!("curl -s -m 5 'telnet://[::1]:{port}' </dev/null")),
        ("a datagram to the world", "perl -MIO::Socket -e '$s = IO::Socket::INET->new(Proto => \"udp\", PeerAddr => \"8.8.8.8\", PeerPort => 443); $s->send(\"x\"); $s->send(\"x\") || exit 1; $s->recv($b, 1) && exit 1; exit(length $b ? 0 : 1)'".to_owned()),
        ("ping", "ping -c 1 -W 1 8.8.8.8 2>&1 | grep -q 'bytes from.*ttl' && ! ip -o addr | grep -q 'lo.*127.0.0.1'".to_owned()),
        ("another interface", "ip -o link | grep -v ': lo:'".to_owned()),
        ("a new interface", "ip link add type veth || ip link set lo down || ip route add 10.0.0.0/8 dev lo || ip addr add 10.0.0.1 dev lo".to_owned()),
        ("the sidecar's port", "perl -MIO::Socket -e 'exit(IO::Socket::INET->new(Listen => 1, LocalPort => 1, ReuseAddr => 1, ReusePort => 1) ? 0 : 1)'".to_owned()),
        ("the sidecar's names", "perl -MIO::Socket -e 'exit(IO::Socket::INET->new(Proto => \"udp\", LocalPort => 53, ReuseAddr => 1, ReusePort => 1) ? 0 : 1)'".to_owned()),
        ("other connections", "grep -v -e local_address -e ' 0100007F:' -e ' 00000000:' /proc/net/tcp".to_owned()),
    ] {
        refused(&mut inside, what, &command).await;
    }
    kit.destroy("network").await;
    drop(local);
}

/// The boot token goes to the sidecar alone: not into any place that the sandbox or the disk can see.
#[tokio::test(flavor = "multi_thread")]
async fn the_boot_token() {
    let mut kit = Kit::new().await;
    let mut inside = kit.sandbox("secret").await;
    // Written with a bracket, so that the search does not find itself.
    for (place, command) in [
        (
            "environments and arguments",
            "cat /proc/*/environ /proc/*/cmdline 2>/dev/null | grep -a -q 'token-of-secre[t]'",
        ),
        ("files", "grep -r -q -s 'token-of-secre[t]' /work /home /run /tmp /etc /dev/shm /opt /var"),
        (
            "memory of the guest",
            "perl -e 'open M, \"/proc/2/maps\" or exit 1; open F, \"/proc/2/mem\" or exit 1; while (<M>) { /^(\\w+)-(\\w+) r/ or next; ($a, $e) = (hex $1, hex $2); sysseek F, $a, 0 or next; sysread F, $d, $e - $a; exit 0 if $d =~ /token-of-secre[t]/ } exit 1'",
        ),
    ] {
        refused(&mut inside, place, command).await;
    }
    let on_disk = std::process::Command::new("grep")
        .args(["-r", "-q", "token-of-secret"])
        .arg(&kit.data)
        .status()
        .expect("grep runs");
    assert!(!on_disk.success(), "the boot token is on disk");
    let sidecar = inside.sidecar;
    for file in ["environ", "cmdline"] {
        let text = std::fs::read(format!("/proc/{sidecar}/{file}")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&text).contains("token-of-secret"), "the boot token is in {file}");
    }
    kit.destroy("secret").await;
}

/// What a sidecar keeps of its rights, seen from outside.
#[tokio::test(flavor = "multi_thread")]
async fn the_sidecar_is_confined_too() {
    use std::os::unix::fs::MetadataExt;

    let mut kit = Kit::new().await;
    let (one, other) = (kit.sandbox("sidecar").await, kit.sandbox("another").await);
    let as_root = rustix::process::geteuid().is_root();
    let mut users = Vec::new();
    for inside in [&one, &other] {
        let status = std::fs::read_to_string(format!("/proc/{}/status", inside.sidecar)).expect("its status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the field");
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        for capabilities in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(field(capabilities), ["0000000000000000"], "{capabilities}");
        }
        assert_eq!(field("NoNewPrivs:"), ["1"]);
        assert_eq!(field("Seccomp:"), ["2"]);
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", inside.sidecar)).expect("its limits");
        let limit = |name: &str| limits.lines().find(|line| line.starts_with(name)).expect("the limit").to_owned();
        assert_eq!(limit("Max core file size").split_whitespace().nth(4), Some("0"), "no core");
        let open_files = limit("Max open files");
        let [soft, hard] = [3, 4].map(|at| open_files.split_whitespace().nth(at));
        assert_eq!(soft, hard, "as many connections as the machine allows");
        let confined = |name: &str| inside.confinement.iter().find(|line| line.starts_with(name)).expect("a check");
        assert!(confined("secrets in memory").contains("Ok") || confined("secrets in memory").contains("swap"));
        assert!(confined("sidecar landlock").contains("Ok"), "{:?}", inside.confinement);
        if as_root {
            assert_eq!(field("CapBnd:"), ["0000000000000000"]);
            assert_eq!(field("Groups:"), [] as [String; 0]);
            let user: u32 = field("Uid:")[0].parse().expect("a number");
            assert_eq!((field("Uid:"), field("Gid:")), (vec![user.to_string(); 4], vec![user.to_string(); 4]));
            assert!(user >= 2_000_000_000, "the sidecar runs as {user}");
            // What a process that is not dumpable shows of itself belongs to root.
            let shown = std::fs::metadata(format!("/proc/{}/environ", inside.sidecar)).expect("it is there");
            assert_eq!(shown.uid(), 0, "it is dumpable");
            users.push(user);
        }
    }
    if as_root {
        assert_ne!(users[0], users[1], "each has a user of its own");
    }
    kit.destroy("sidecar").await;
    kit.destroy("another").await;
}

/// What a sidecar that a hostile guest has taken over can still do: none of what it tries, though another sidecar and its
/// sandbox run beside it.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_was_taken_over_gets_nowhere() {
    let mut kit = Kit::new().await;
    let beside = kit.sandbox("beside").await;
    let taken_over = kit.sandbox("taken").await;
    for inside in [beside, taken_over] {
        let mut succeeded = inside.succeeded;
        if !rustix::process::geteuid().is_root() {
            // Without users of their own they see that the others are there, and no more.
            succeeded.retain(|what| !what.starts_with("see the descriptors"));
        }
        assert_eq!(succeeded, [] as [String; 0]);
    }
    kit.destroy("beside").await;
    kit.destroy("taken").await;
}
