//! The environment of the harness and of every shell: the agent's own variables and what makes tools work here.

use std::collections::BTreeMap;

use lap_api::link::GuestBoot;

use crate::layout::Layout;
use crate::trust;

/// Variables by name.
pub(crate) type Environment = BTreeMap<String, String>;

/// What every program of the sandbox sees. The agent's own variables win over defaults; the reserved ones cannot clash.
pub(crate) fn environment(layout: &Layout, boot: &GuestBoot) -> Environment {
    let home = layout.home();
    let mut env: Environment = [
        ("HOME", home.display().to_string()),
        ("USER", "agent".to_owned()),
        ("LOGNAME", "agent".to_owned()),
        ("SHELL", shell().to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("TERM", "xterm-256color".to_owned()),
        ("TMPDIR", layout.tmp().display().to_string()),
        ("PATH", search_path(layout, boot)),
        // Nobody sits at a terminal in there: asking for a password would wait for ever.
        ("GIT_TERMINAL_PROMPT", "0".to_owned()),
        ("GIT_CONFIG_SYSTEM", layout.gitconfig().display().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    if boot.requirements.is_some() {
        env.insert("VIRTUAL_ENV".to_owned(), layout.venv().display().to_string());
    }
    env.extend(trust::variables(layout));
    env.extend(boot.harness.env.clone());
    env.extend(boot.env.clone());
    env
}

fn search_path(layout: &Layout, boot: &GuestBoot) -> String {
    let home = layout.home();
    let own = format!("{}:{}", home.join(".local/bin").display(), layout.search_path);
    match boot.requirements {
        Some(_) => format!("{}:{own}", layout.venv().join("bin").display()),
        None => own,
    }
}

fn shell() -> &'static str {
    ["/bin/bash", "/usr/bin/bash"].into_iter().find(|path| std::path::Path::new(path).exists()).unwrap_or("/bin/sh")
}
