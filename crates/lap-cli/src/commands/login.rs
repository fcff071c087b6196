//! `lap login` and `lap logout`: keys come in unseen, are checked, and are kept in a 0600 file.

use lap_client::{AgentListQuery, ApiKey, server_url};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::{client, read_all, read_line};
use crate::args::{ClientOptions, LoginArgs, LogoutArgs};
use crate::context::{Context, Io};
use crate::failure::{Exit, Failure};
use crate::profile::{DEFAULT_SERVER, Profile, Profiles, Target};

pub(super) async fn login(args: LoginArgs, options: &ClientOptions, context: &mut Context) -> Result<Exit, Failure> {
    let Context { environment, io, .. } = context;
    let mut profiles = Profiles::load(environment, io)?;
    let name = profiles.chosen(options, environment);
    let known = profiles.profiles.get(&name);
    let suggested = options.server.clone().or_else(|| environment.server.clone());
    let server = match suggested {
        Some(server) => server,
        None => {
            let default = known.map_or(DEFAULT_SERVER, |profile| profile.server.as_str()).to_owned();
            if args.key_stdin || !io.input_is_terminal { default } else { ask_server(io, &default)? }
        }
    };
    let server = server_url(&server).map_err(|e| Failure::usage(e.to_string()))?;
    let key = if args.key_stdin {
        read_all(io)?
    } else if io.input_is_terminal {
        ask_key(io)?
    } else {
        return Err(Failure::usage("there is no terminal to ask for the key")
            .hint("Give it on standard input: lap login --key-stdin < key.txt"));
    };
    let key = ApiKey::new(&key);
    if key.expose().is_empty() {
        return Err(Failure::usage("the key is empty").hint("A server prints its master key when it first starts."));
    }
    let ca_file = options.ca_file.clone().or_else(|| known.and_then(|profile| profile.ca_file.clone()));
    let ca_file = ca_file.map(|path| std::path::absolute(&path).unwrap_or(path));
    let target = Target {
        server: server.clone(),
        server_from: "login".to_owned(),
        key: Some(key.clone()),
        key_from: None,
        ca_file: ca_file.clone().or_else(|| environment.ca_file.clone()),
        profile: name.clone(),
    };
    let shown = server.as_str().trim_end_matches('/').to_owned();
    let query = AgentListQuery { limit: Some(1), ..AgentListQuery::default() };
    client(&target)?.agents(&query).await.map_err(|e| match e.api() {
        Some(refusal) if refusal.status == 401 => {
            Failure::new(Exit::Unauthorized, format!("{shown} does not know this key"))
                .hint("Nothing was stored. A server prints its master key when it first starts.")
        }
        _ => e.into(),
    })?;
    profiles.profiles.insert(name.clone(), Profile { server: shown.clone(), key: Some(key), ca_file });
    profiles.profile = Some(name.clone());
    let path = profiles.save(environment)?;
    io.talk(&format!("Logged in to {shown}. The key is kept in {} (profile {name}).", path.display()));
    Ok(Exit::Ok)
}

pub(super) fn logout(args: &LogoutArgs, options: &ClientOptions, context: &mut Context) -> Result<Exit, Failure> {
    let Context { environment, io, .. } = context;
    let mut profiles = Profiles::load(environment, io)?;
    if args.all {
        let n_forgotten = profiles.profiles.len();
        Profiles::default().save(environment)?;
        io.talk(&format!("Forgot {n_forgotten} profile{}.", if n_forgotten == 1 { "" } else { "s" }));
        return Ok(Exit::Ok);
    }
    let name = profiles.chosen(options, environment);
    match profiles.profiles.get_mut(&name) {
        Some(profile) => {
            let forgotten = profile.key.take();
            profiles.save(environment)?;
            io.talk(&match forgotten {
                Some(_) => format!("Forgot the key of profile {name}. The key itself is still valid on its server."),
                None => format!("Profile {name} has no key."),
            });
            Ok(Exit::Ok)
        }
        None => Err(Failure::new(Exit::NotFound, format!("there is no profile `{name}`"))
            .hint("`lap config` shows the profiles there are.")),
    }
}

fn ask_server(io: &mut Io, default: &str) -> Result<String, Failure> {
    let _ = write!(io.err, "Server [{default}]: ");
    let _ = io.err.flush();
    let line = read_line(io)?;
    Ok(if line.trim().is_empty() { default.to_owned() } else { line })
}

/// Reads a key that does not show. The keyboard is silent before the question is asked, so that nothing typed early shows.
fn ask_key(io: &mut Io) -> Result<String, Failure> {
    let hidden = Hidden::begin();
    let _ = write!(io.err, "API key (not shown): ");
    let _ = io.err.flush();
    let key = read_hidden(io);
    drop(hidden);
    let _ = writeln!(io.err);
    key
}

/// The little editing that a line without echo needs. Ctrl-C and Ctrl-D arrive as characters and end the command in good
/// order; as signals they would leave a silent terminal behind.
fn read_hidden(io: &mut Io) -> Result<String, Failure> {
    const CTRL_C: u8 = 3;
    const CTRL_D: u8 = 4;
    const BACKSPACE: [u8; 2] = [8, 127];
    const CTRL_U: u8 = 21;
    let mut key = Vec::new();
    let mut byte = [0];
    loop {
        let n = io.input.read(&mut byte).map_err(|e| Failure::new(Exit::Failure, format!("could not read: {e}")))?;
        match byte[0] {
            _ if n == 0 => break,
            b'\n' | b'\r' => break,
            CTRL_D if !key.is_empty() => break,
            CTRL_C | CTRL_D => return Err(Failure::interrupted()),
            CTRL_U => key.clear(),
            b if BACKSPACE.contains(&b) => drop(key.pop()),
            b => key.push(b),
        }
    }
    Ok(String::from_utf8_lossy(&key).into_owned())
}

/// The terminal without echo, byte by byte, as long as this lives.
struct Hidden {
    before: Termios,
}

impl Hidden {
    fn begin() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(&stdin, OptionalActions::Now, &hidden).ok()?;
        Some(Self { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // There is nothing better to do when the terminal is gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}
