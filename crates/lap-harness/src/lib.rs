//! The harnesses this build knows, as data, and their installation.
//!
//! A harness is a folder below `harnesses/`: what it is, how it is started, and which packages it is made of. The folders
//! are part of the binary. What drives a harness is an adapter of the guest, named here and known only there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use lap_api::link::{HarnessFile, HarnessFileContent, HarnessLaunch, TuiLaunch};
use serde::Deserialize;

mod install;

pub use install::{InstallConfig, InstallError, Progress};

/// Where an installed harness is inside a sandbox; the mount of it must be named `harness`.
const INSIDE: &str = "/opt/lap/harness";

/// A program that can be the agent inside a sandbox.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Harness {
    /// What agents call it.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The version this build drives, and no other.
    pub version: String,
    /// Whether it has a terminal of its own.
    pub supports_tui: bool,
    /// Ways to talk to its sessions: `messages`, `terminal`.
    pub faces: Vec<String>,
    /// Folder, `~/…`, in which it finds skills.
    pub skills_dir: String,
    /// Exists for tests; servers offer it only when told to.
    #[serde(default)]
    pub test_only: bool,
    /// Which adapter of the guest drives it.
    adapter: String,
    /// Id of the harness whose program this one is: installed once for both, and started alike.
    #[serde(default)]
    program_of: Option<String>,
    /// What to install; nothing where it is no program of its own.
    #[serde(default)]
    install: Option<Program>,
    #[serde(default)]
    launch: Launch,
    #[serde(default)]
    tui: Option<Tui>,
    #[serde(skip)]
    packages: Option<Packages>,
    /// Id and version below which its program is installed.
    #[serde(skip)]
    place: (String, String),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Program {
    /// Relative to the installation.
    program: PathBuf,
    /// The processors it runs on, as Rust names them.
    arch: String,
    /// How much an installation unpacks, about.
    bytes: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Launch {
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    files: Vec<File>,
}

/// How its own terminal program goes on with a conversation; see [`TuiLaunch`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tui {
    args: Vec<String>,
    resume_args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    joins: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    path: String,
    #[serde(flatten)]
    content: Content,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Content {
    Text(String),
    /// To a path relative to the installation.
    Link(PathBuf),
}

/// What npm needs: exact versions with the hashes of their archives.
#[derive(Debug, Clone, Copy)]
struct Packages {
    manifest: &'static str,
    lock: &'static str,
}

/// Every harness this build knows, installed or not, in a stable order.
pub fn known() -> &'static [Harness] {
    static KNOWN: LazyLock<Vec<Harness>> = LazyLock::new(|| {
        macro_rules! packages {
            ($id:literal) => {
                Some(Packages {
                    manifest: include_str!(concat!("../../../harnesses/", $id, "/package.json")),
                    lock: include_str!(concat!("../../../harnesses/", $id, "/package-lock.json")),
                })
            };
        }
        let folders = [
            (include_str!("../../../harnesses/opencode/harness.toml"), packages!("opencode")),
            (include_str!("../../../harnesses/claude-agent-sdk/harness.toml"), None),
            (include_str!("../../../harnesses/claude-code/harness.toml"), packages!("claude-code")),
            (include_str!("../../../harnesses/codex/harness.toml"), packages!("codex")),
            (include_str!("../../../harnesses/shell/harness.toml"), None),
        ];
        let parse = |(text, packages)| {
            let harness: Harness =
                toml::from_str(text).expect("the folders are part of the build, and a test reads them");
            Harness { packages, place: (harness.id.clone(), harness.version.clone()), ..harness }
        };
        let folders: Vec<Harness> = folders.into_iter().map(parse).collect();
        folders.iter().map(|harness| harness.with_program(&folders)).collect()
    });
    &KNOWN
}

/// The harness of this id.
pub fn find(id: &str) -> Option<&'static Harness> {
    known().iter().find(|harness| harness.id == id)
}

impl Harness {
    /// Itself, with what it shares with another harness.
    fn with_program(&self, all: &[Harness]) -> Harness {
        let Some(id) = &self.program_of else { return self.clone() };
        let other = all.iter().find(|other| other.id == *id).expect("a test reads the folders");
        let (install, launch, place) = (other.install.clone(), other.launch.clone(), other.place.clone());
        Harness { install, launch, place, packages: other.packages, ..self.clone() }
    }

    /// Whether sessions of it can start: true once an installation was completed, never for a half-done one.
    pub fn installed(&self, data_dir: &Path) -> bool {
        self.folder(data_dir).is_none_or(|folder| install::is_whole(&folder, &self.place.1))
    }

    /// Where its installation is or would be; none if it has nothing to install.
    pub fn folder(&self, data_dir: &Path) -> Option<PathBuf> {
        self.install.as_ref().map(|_| data_dir.join("harnesses").join(&self.place.0).join(&self.place.1))
    }

    /// What a person does to have it, as the rest of a sentence.
    pub fn how_to_install(&self) -> String {
        format!("install it with `lap harness install {}`", self.id)
    }

    /// How the guest starts it. The installation is mounted as `harness`.
    pub fn launch(&self) -> HarnessLaunch {
        let inside = |path: &Path| format!("{INSIDE}/{}", path.display());
        let program = self.install.iter().map(|install| inside(&install.program));
        let file = |File { path, content }: &File| {
            let content = match content {
                Content::Text(text) => HarnessFileContent::Text(text.clone()),
                Content::Link(target) => HarnessFileContent::Link(inside(target)),
            };
            HarnessFile { path: path.clone(), content }
        };
        HarnessLaunch {
            id: self.id.clone(),
            version: self.version.clone(),
            adapter: self.adapter.clone(),
            command: program.chain(self.launch.args.iter().cloned()).collect(),
            env: self.launch.env.clone(),
            skills_dir: self.skills_dir.clone(),
            files: self.launch.files.iter().map(file).collect(),
            tui: self.tui.as_ref().map(|Tui { args, resume_args, env, joins }| TuiLaunch {
                args: args.clone(),
                resume_args: resume_args.clone(),
                env: env.clone(),
                joins: *joins,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
