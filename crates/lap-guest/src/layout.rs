//! Where things are inside a sandbox; a test puts them all below a folder of its own.

use std::path::{Path, PathBuf};

/// The places the guest reads and writes.
#[derive(Debug, Clone)]
pub struct Layout {
    /// What absolute paths of the platform are relative to: `/` in a sandbox.
    pub root: PathBuf,
    /// `PATH` of the harness and of every shell, without the folders the guest puts in front.
    pub search_path: String,
    /// What git is told to ask for credentials, in git's own syntax.
    pub credential_helper: String,
}

impl Layout {
    /// A sandbox's own.
    pub fn sandbox() -> Self {
        Self {
            root: PathBuf::from("/"),
            search_path: "/opt/lap/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            credential_helper: "!/opt/lap/bin/lap git-credential".to_owned(),
        }
    }

    /// The same below a folder, for running the guest without a sandbox.
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned(), ..Self::sandbox() }
    }

    /// The platform's folder, in memory: certificates and git's system configuration.
    pub fn run(&self) -> PathBuf {
        self.root.join("run/lap")
    }

    /// The certificate of the sandbox's own authority.
    pub fn ca(&self) -> PathBuf {
        self.run().join("tls/lap-ca.pem")
    }

    /// The system's certificates and the sandbox's own.
    pub fn ca_bundle(&self) -> PathBuf {
        self.run().join("tls/ca-certificates.crt")
    }

    /// The same in the format of Java.
    pub fn java_store(&self) -> PathBuf {
        self.run().join("tls/cacerts")
    }

    /// The certificates of programs that use NSS, such as Chromium.
    pub fn nss_database(&self) -> PathBuf {
        self.home().join(".pki/nssdb")
    }

    /// The system's certificates alone.
    pub fn system_bundle(&self) -> PathBuf {
        self.root.join("etc/ssl/lap-system.pem")
    }

    /// git's system configuration.
    pub fn gitconfig(&self) -> PathBuf {
        self.run().join("gitconfig")
    }

    /// The working tree.
    pub fn repo(&self) -> PathBuf {
        self.root.join("work/repo")
    }

    /// The home folder.
    pub fn home(&self) -> PathBuf {
        self.root.join("home/agent")
    }

    /// Temporary files.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// The virtual environment of the agent's requirements.
    pub fn venv(&self) -> PathBuf {
        self.home().join(".venv")
    }
}
