//! Which crate may know which: the architecture as a table.
//!
//! A crate is defined by what it may not know. A new edge is a change of architecture: it is added here, and said in
//! ARCHITECTURE.md, in the same change.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Finding;

/// What one crate may depend on, dev-dependencies aside.
struct Border {
    name: &'static str,
    /// Crates of this workspace.
    knows: &'static [&'static str],
    others: Others,
}

/// What a crate may use from outside.
enum Others {
    Only(&'static [&'static str]),
    Never(&'static [&'static str]),
}
use Others::{Never, Only};

/// Databases.
const SQL: [&str; 2] = ["sqlx", "libsqlite3-sys"];

const BORDERS: &[Border] = &[
    Border { name: "lap-domain", knows: &[], others: Only(&["thiserror", "zeroize"]) },
    Border { name: "lap-api", knows: &[], others: Only(&["serde", "serde_json", "zeroize"]) },
    Border {
        name: "lap-link",
        knows: &["lap-api"],
        others: Only(&["bytes", "serde", "serde_json", "thiserror", "tokio", "zeroize"]),
    },
    Border {
        name: "lap-harness",
        knows: &["lap-api"],
        others: Never(&["axum", "hyper", "rustls", "libsqlite3-sys", "sqlx"]),
    },
    Border {
        name: "lap-store",
        knows: &["lap-domain"],
        others: Never(&["axum", "hyper", "hyper-util", "http", "rustls", "tower"]),
    },
    Border { name: "lap-vault", knows: &["lap-domain"], others: Never(&["axum", "clap", "kube", SQL[0], SQL[1]]) },
    Border {
        name: "lap-sandbox",
        knows: &[],
        others: Never(&["axum", "hyper", "kube", "libc", "rustix", SQL[0], SQL[1]]),
    },
    Border {
        name: "lap-sandbox-local",
        knows: &["lap-sandbox"],
        others: Never(&["axum", "hyper", "rustls", "rcgen", SQL[0], SQL[1]]),
    },
    Border {
        name: "lap-sidecar",
        knows: &["lap-api", "lap-domain", "lap-link", "lap-sandbox", "lap-sandbox-local", "lap-vault"],
        others: Never(&["axum", "hyper", "rcgen", SQL[0], SQL[1]]),
    },
    Border {
        name: "lap-guest",
        knows: &["lap-api", "lap-link"],
        others: Never(&["axum", "rustls", "tokio-rustls", "rcgen", SQL[0], SQL[1]]),
    },
    Border {
        name: "lap-engine",
        knows: &["lap-api", "lap-domain", "lap-harness", "lap-link", "lap-sandbox", "lap-store"],
        others: Never(&["axum", "http", "hyper", "hyper-util", "kube", "rcgen", "rustls", SQL[0], SQL[1]]),
    },
    Border {
        name: "lap-github",
        knows: &["lap-domain", "lap-engine"],
        others: Never(&["axum", "clap", "kube", "lap-store", SQL[0], SQL[1]]),
    },
    Border {
        name: "lap-server",
        knows: &["lap-api", "lap-domain", "lap-engine"],
        others: Never(&["kube", "libc", "rustix", SQL[0], SQL[1]]),
    },
    Border { name: "lap-client", knows: &["lap-api"], others: Never(&["axum", "clap", SQL[0], SQL[1]]) },
    Border {
        name: "lap-cli",
        knows: &["lap-api", "lap-client"],
        others: Never(&["axum", "hyper", "rustls", SQL[0], SQL[1]]),
    },
    Border {
        name: "lap",
        knows: &[
            "lap-api",
            "lap-cli",
            "lap-client",
            "lap-domain",
            "lap-engine",
            "lap-github",
            "lap-guest",
            "lap-harness",
            "lap-sandbox",
            "lap-sandbox-local",
            "lap-server",
            "lap-sidecar",
            "lap-store",
            "lap-vault",
        ],
        others: Never(&["axum", "hyper", SQL[0], SQL[1]]),
    },
    // Fuzz targets; nothing of the product depends on it.
    Border {
        name: "lap-fuzz",
        knows: &["lap-api", "lap-domain", "lap-link", "lap-vault"],
        others: Only(&["serde_json", "tokio", "url"]),
    },
    // For tests, demo and benchmarks; nothing of the product depends on it.
    Border {
        name: "lap-test",
        knows: &[
            "lap-api",
            "lap-client",
            "lap-domain",
            "lap-engine",
            "lap-harness",
            "lap-sandbox",
            "lap-server",
            "lap-store",
        ],
        others: Never(&[SQL[0], SQL[1]]),
    },
    Border { name: "xtask", knows: &["lap-api", "lap-client", "lap-test"], others: Never(&["axum", SQL[0], SQL[1]]) },
];

/// Checks every crate of the workspace.
pub fn check(metadata: &Value, findings: &mut Vec<Finding>) {
    let members: BTreeSet<&str> = texts(&metadata["workspace_members"]).collect();
    let packages: Vec<&Value> = list(&metadata["packages"])
        .filter(|package| package["id"].as_str().is_some_and(|id| members.contains(id)))
        .collect();
    let ours: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    for package in packages {
        let Some(name) = package["name"].as_str() else { continue };
        let manifest = manifest_path(name);
        let Some(border) = BORDERS.iter().find(|border| border.name == name) else {
            let what =
                "a new crate: say in xtask/src/tidy/borders.rs what it may know, and in ARCHITECTURE.md what it is";
            findings.push(Finding::new(&manifest, 0, what));
            continue;
        };
        for dependency in list(&package["dependencies"]).filter(|dependency| dependency["kind"] != "dev") {
            let Some(dependency) = dependency["name"].as_str() else { continue };
            if let Some(what) = border.objection(dependency, ours.contains(dependency)) {
                findings.push(Finding::new(&manifest, 0, what));
            }
        }
    }
}

impl Border {
    fn objection(&self, dependency: &str, ours: bool) -> Option<String> {
        let Self { name, knows, others } = self;
        let allowed = match others {
            _ if ours => knows.contains(&dependency),
            Only(only) => only.contains(&dependency),
            Never(never) => !never.contains(&dependency),
        };
        (!allowed).then(|| format!("{name} must not know {dependency} (xtask/src/tidy/borders.rs)"))
    }
}

fn manifest_path(name: &str) -> String {
    if name == "xtask" { "xtask/Cargo.toml".to_owned() } else { format!("crates/{name}/Cargo.toml") }
}

/// The elements of a JSON list.
pub fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The texts in a JSON list.
fn texts(value: &Value) -> impl Iterator<Item = &str> {
    list(value).filter_map(Value::as_str)
}
