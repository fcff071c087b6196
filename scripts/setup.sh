#!/usr/bin/env bash
# Installs what building, testing and running LAP needs and this machine lacks. Says what it does; does nothing when
# nothing is missing. Needs root (or sudo) only when there is something to install.
#
#   scripts/setup.sh          what building and the demo need
#   scripts/setup.sh test     also the programs that are tried in sandboxes
#   scripts/setup.sh dist     also what the static release binary needs
#   scripts/setup.sh fuzz     also what fuzzing by hand needs
set -euo pipefail

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
have() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1; }

packages=()
reasons=()
need() { # package, what it is for, then the test that shows it is there
    local package=$1 why=$2
    shift 2
    "$@" >/dev/null 2>&1 && return
    packages+=("$package")
    reasons+=("$package ($why)")
}

need ca-certificates "roots for https" test -s /etc/ssl/certs/ca-certificates.crt
need curl "health checks and the examples" have curl
need e2fsprogs "volumes of sandboxes: mke2fs" have mke2fs
need git "repositories inside sandboxes, tests" have git
need mount "volumes of sandboxes: losetup, mount" have losetup
need python3-venv "requirements of agents" python3 -c 'import ensurepip, venv'
need ripgrep "searching inside sandboxes" have rg
need tmux "tests of the terminal, as a person sees it" have tmux
need util-linux "namespaces: unshare, nsenter" have nsenter
# Sandboxes see the machine's /usr and nothing else of it.
inside() { PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin command -v "$1" >/dev/null 2>&1; }
if [ "${1:-}" = test ]; then
    need default-jdk-headless "tests: Java trusts the vault" inside javac
    need gh "tests: GitHub's program trusts the vault" inside gh
    need golang-go "tests: Go trusts the vault" inside go
    need libnss3-tools "tests: NSS trusts the vault" inside tstclnt
    need openssl "tests: OpenSSL trusts the vault" inside openssl
    need wget "tests: GnuTLS trusts the vault" inside wget
fi
if [ "${1:-}" = dist ]; then
    need musl-tools "C compiler of the static binary: musl-gcc" have musl-gcc
fi

if [ "${1:-}" = fuzz ]; then
    need g++ "compiler of libFuzzer" have c++
fi

if [ ${#packages[@]} -gt 0 ]; then
    have apt-get || die "missing: ${reasons[*]}; install them with this system's package manager and run again"
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        have sudo || die "missing: ${reasons[*]}; run as root once: apt-get install ${packages[*]}"
        as_root=(sudo)
    fi
    install() {
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
            -o DPkg::Lock::Timeout=120 "${packages[@]}" >&2
    }
    say "installing by apt: ${reasons[*]}"
    # The package lists of a fresh machine are empty or stale: only then is an update worth its time.
    if ! install; then
        say "that did not work with the package lists at hand; updating them"
        for attempt in 1 2 3; do
            "${as_root[@]}" apt-get update -q -o DPkg::Lock::Timeout=120 >&2 && install && break
            [ "$attempt" -lt 3 ] || die "apt could not install: ${packages[*]}"
            say "trying again in $((attempt * 5)) s"
            sleep $((attempt * 5))
        done
    fi
    say "installed: ${packages[*]}"
fi

have cargo || die "Rust is missing: install 1.95 or newer with rustup (https://rustup.rs)"
have cc || die "a C compiler is missing: apt-get install gcc"
have npm || say "npm is missing: harnesses cannot be installed, and the tests that run the real opencode will fail"

for component in fmt:rustfmt clippy:clippy; do
    cargo "${component%%:*}" --version >/dev/null 2>&1 && continue
    have rustup || die "cargo ${component%%:*} is missing and there is no rustup to install it with"
    say "installing by rustup: ${component##*:}"
    rustup component add "${component##*:}" >&2
done

if [ "${1:-}" = dist ]; then
    target="$(uname -m)-unknown-linux-musl"
    if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target" ]; then
        have rustup || die "Rust's target $target is missing and there is no rustup to install it with"
        say "installing by rustup: the target $target"
        rustup target add "$target" >&2 || die "rustup could not add $target: the static binary needs it"
    fi
fi

if [ "${1:-}" = fuzz ] && ! have cargo-fuzz; then
    say "installing by cargo: cargo-fuzz"
    cargo install --locked cargo-fuzz >&2 || die "cargo could not install cargo-fuzz"
fi
