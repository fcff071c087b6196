//! Brings the sandbox up: trust, files, clone, requirements. Each phase is reported when it happens.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lap_api::agent::SandboxFile;
use lap_api::link::{GuestBoot, HarnessFile, HarnessFileContent, Report, SkillFile};

use crate::Failure;
use crate::child::{self, ending};
use crate::environment::Environment;
use crate::files::{Content, Target};
use crate::git;
use crate::layout::Layout;
use crate::outbox::Outbox;

/// Longest installation of requirements; large ones compile.
const INSTALL_DEADLINE: std::time::Duration = std::time::Duration::from_secs(30 * 60);

/// Makes the folders and writes every file but those inside the working tree, which must be empty for the clone.
pub(crate) async fn files(layout: &Layout, boot: &GuestBoot, out: &Outbox) -> Result<(), Failure> {
    out.phase("injecting_files", None).await;
    for folder in [layout.run(), layout.home(), layout.repo()] {
        std::fs::create_dir_all(&folder)
            .map_err(|error| Failure::new("sandbox_file", format!("could not make {}: {error}", folder.display())))?;
    }
    std::fs::write(layout.gitconfig(), git::configuration(layout, &boot.git_author))
        .map_err(|error| Failure::new("sandbox_file", format!("could not write git's configuration: {error}")))?;
    inject(layout, boot, false)
}

/// The working tree: the clone, the files that go into it, and the requirements.
pub(crate) async fn tree(layout: &Layout, env: &Environment, boot: &GuestBoot, out: &Outbox) -> Result<(), Failure> {
    out.phase("cloning_repo", git::detail(boot)).await;
    clone(layout, env, boot, out).await?;
    inject(layout, boot, true)?;
    if let Some(requirements) = &boot.requirements {
        out.phase("installing_deps", None).await;
        install(layout, env, requirements, out).await?;
    }
    Ok(())
}

/// Clones, and says that it is over however it went: what was granted for it ends then.
async fn clone(layout: &Layout, env: &Environment, boot: &GuestBoot, out: &Outbox) -> Result<(), Failure> {
    let cloned = match &boot.repo {
        Some(repo) => git::clone(layout, env, repo, out).await,
        None => Ok(git::Cloned { branch: None, commit: None }),
    };
    let (branch, commit, done) = match cloned {
        Ok(git::Cloned { branch, commit }) => (branch, commit, Ok(())),
        Err(failure) => (None, None, Err(failure)),
    };
    out.report(Report::CloneDone { branch, commit }).await;
    done
}

/// Writes the files of agent, skills and harness: those outside of the working tree, or, after the clone, those in it.
fn inject(layout: &Layout, boot: &GuestBoot, in_repo: bool) -> Result<(), Failure> {
    let write = |path: &str, content: &Content<'_>| {
        let target = Target::parse(layout, path)?;
        if target.in_repo(layout) == in_repo { target.write(content) } else { Ok(()) }
    };
    // The harness's own come first: an agent may bring its own instead.
    for HarnessFile { path, content } in &boot.harness.files {
        let content = match content {
            HarnessFileContent::Text(text) => Content::Bytes(text.as_bytes()),
            HarnessFileContent::Link(to) => Content::Link(to),
        };
        write(path, &content)?;
    }
    for SandboxFile { name, sandbox_path, content, .. } in &boot.files {
        let bytes = STANDARD
            .decode(content.as_deref().unwrap_or_default())
            .map_err(|_| Failure::new("sandbox_file", format!("the content of the file `{name}` is not base64")))?;
        write(sandbox_path, &Content::Bytes(&bytes))?;
    }
    for SkillFile { slug, content } in &boot.skills {
        let path = format!("{}/{slug}/SKILL.md", boot.harness.skills_dir.trim_end_matches('/'));
        write(&path, &Content::Bytes(content.as_bytes()))?;
    }
    Ok(())
}

/// Installs the requirements into a virtual environment of their own.
async fn install(layout: &Layout, env: &Environment, requirements: &str, out: &Outbox) -> Result<(), Failure> {
    let failed = |what: String| Failure::new("requirements_failed", what);
    let list = layout.run().join("requirements.txt");
    std::fs::write(&list, requirements)
        .map_err(|error| failed(format!("could not write the requirements: {error}")))?;
    let venv = layout.venv();
    let python = venv.join("bin/python");
    if !python.exists() {
        let mut make = child::command("python3", &layout.home(), env);
        make.args(["-m", "venv"]).arg(&venv);
        step(&mut make, out, "a virtual environment could not be made").await?;
    }
    let mut pip = child::command(&python, &layout.home(), env);
    pip.args(["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off", "-r"]);
    pip.arg(&list);
    step(&mut pip, out, "the requirements could not be installed").await
}

/// Runs one program of the installation; what it said last is the reason when it fails.
async fn step(command: &mut tokio::process::Command, out: &Outbox, attempt: &str) -> Result<(), Failure> {
    let failed = |why: String| Failure::new("requirements_failed", format!("{attempt}: {why}"));
    let run = child::run(command, "install", out, |_| None);
    let (status, last) = tokio::time::timeout(INSTALL_DEADLINE, run)
        .await
        .map_err(|_| failed(format!("it took longer than {} minutes", INSTALL_DEADLINE.as_secs() / 60)))?
        .map_err(|error| failed(error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    let text = last.text();
    let error = text.lines().rev().find(|line| line.starts_with("ERROR:")).or(last.last());
    Err(failed(error.map_or_else(|| ending(status), |line| crate::clip::head(line, 300))))
}
