//! `~/.lap/config.json`: servers and keys by name. Mode 0600, replaced in one step.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use lap_client::{ApiKey, ClientConfig, server_url};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::args::ClientOptions;
use crate::context::{Environment, Io};
use crate::failure::{Exit, Failure};

/// Where a server on this machine listens by default.
pub(crate) const DEFAULT_SERVER: &str = "http://127.0.0.1:4773";

/// Name of the profile that `lap login` makes when none is named.
const DEFAULT_PROFILE: &str = "default";

/// The file's content.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Profiles {
    /// The one in use.
    #[serde(default)]
    pub profile: Option<String>,
    #[serde(default)]
    pub profiles: BTreeMap<String, Profile>,
}

/// One server and how to be let in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Profile {
    pub server: String,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "key_text")]
    pub key: Option<ApiKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// The one place where a key is written out: into the 0600 file.
mod key_text {
    use lap_client::ApiKey;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(key: &Option<ApiKey>, serializer: S) -> Result<S::Ok, S::Error> {
        key.as_ref().map(ApiKey::expose).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ApiKey>, D::Error> {
        Ok(Option::<String>::deserialize(deserializer)?.map(|text| ApiKey::new(&text)))
    }
}

impl Profiles {
    pub fn path(environment: &Environment) -> Result<PathBuf, Failure> {
        environment.lap_home.as_ref().map(|home| home.join("config.json")).ok_or_else(|| {
            Failure::new(Exit::Failure, "there is no home folder to keep the configuration in")
                .hint("Set HOME or LAP_HOME, or give LAP_SERVER and LAP_API_KEY instead of profiles.")
        })
    }

    /// Reads the file; a missing one is empty.
    pub fn load(environment: &Environment, io: &mut Io) -> Result<Self, Failure> {
        let Ok(path) = Self::path(environment) else { return Ok(Self::default()) };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Failure::file("read", &path, &e)),
        };
        let open_to_others = fs::metadata(&path).is_ok_and(|m| m.permissions().mode() & 0o077 != 0);
        if open_to_others {
            let path = path.display();
            io.talk(&format!("warning: others can read your keys in {path}; run: chmod 600 {path}"));
        }
        serde_json::from_str(&text).map_err(|e| {
            Failure::new(Exit::Failure, format!("{} is not a configuration of lap: {e}", path.display()))
                .hint("Mend it, or remove it and run `lap login`.")
        })
    }

    /// Replaces the file in one step, readable for its owner alone from its first byte on.
    pub fn save(&self, environment: &Environment) -> Result<PathBuf, Failure> {
        let path = Self::path(environment)?;
        let write = || {
            if let Some(folder) = path.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
            let fresh = path.with_extension(format!("json.{}", std::process::id()));
            // A leftover of a crashed run with the same process id, or somebody's trap: not to be written through.
            match fs::remove_file(&fresh) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
            let text = serde_json::to_string_pretty(self).expect("profiles serialise");
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&fresh, &path)
        };
        write().map_err(|e| Failure::file("write", &path, &e))?;
        Ok(path)
    }

    /// The profile that counts: the option, the variable, the one in use, `default`.
    pub fn chosen(&self, options: &ClientOptions, environment: &Environment) -> String {
        let named = options.profile.as_ref().or(environment.profile.as_ref());
        named.or(self.profile.as_ref()).cloned().unwrap_or_else(|| DEFAULT_PROFILE.to_owned())
    }
}

/// The server to talk to and where each part of it came from.
#[derive(Debug)]
pub(crate) struct Target {
    pub server: Url,
    pub server_from: String,
    pub key: Option<ApiKey>,
    pub key_from: Option<String>,
    pub ca_file: Option<PathBuf>,
    pub profile: String,
}

impl Target {
    /// Puts options, environment and profiles together. A profile's key goes to that profile's server and to no other,
    /// whatever `--server` says.
    pub fn find(options: &ClientOptions, environment: &Environment, profiles: &Profiles) -> Result<Self, Failure> {
        let name = profiles.chosen(options, environment);
        let named_by_hand = options.profile.is_some() || environment.profile.is_some();
        let profile = profiles.profiles.get(&name);
        if profile.is_none() && named_by_hand {
            let known: Vec<&str> = profiles.profiles.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Failure::new(Exit::NotFound, format!("there is no profile `{name}` (there are: {known})"))
                .hint(format!("`lap login --profile {name} --server URL` makes it.")));
        }
        let (server, server_from) = match (&options.server, &environment.server, profile) {
            (Some(server), _, _) => (server.as_str(), "--server".to_owned()),
            (None, Some(server), _) => (server.as_str(), "LAP_SERVER".to_owned()),
            (None, None, Some(profile)) => (profile.server.as_str(), format!("profile {name}")),
            (None, None, None) => (DEFAULT_SERVER, "the default".to_owned()),
        };
        let server = server_url(server).map_err(|e| Failure::usage(format!("{e} (from {server_from})")))?;
        let same_server = |profile: &&Profile| server_url(&profile.server).is_ok_and(|url| url == server);
        let fitting = profile
            .filter(same_server)
            .map(|profile| (&name, profile))
            .or_else(|| profiles.profiles.iter().find(|(_, profile)| same_server(profile)));
        let (mut key, mut key_from) = (environment.api_key.clone(), Some("LAP_API_KEY".to_owned()));
        if key.is_none() {
            key = fitting.and_then(|(_, profile)| profile.key.clone());
            key_from = fitting.map(|(name, _)| format!("profile {name}"));
        }
        if key.is_none()
            && is_loopback(&server)
            && let Some(path) = &environment.local_key_file
            && let Ok(text) = fs::read_to_string(path)
            && !text.trim().is_empty()
        {
            key = Some(ApiKey::new(&text));
            key_from = Some(format!("{}, the key of the server on this machine", path.display()));
        }
        let ca_file = options
            .ca_file
            .clone()
            .or_else(|| environment.ca_file.clone())
            .or_else(|| fitting.and_then(|(_, profile)| profile.ca_file.clone()));
        let key_from = key_from.filter(|_| key.is_some());
        Ok(Self { server, server_from, key, key_from, ca_file, profile: name })
    }

    /// True when the key was found beside a local server, which is worth a word.
    pub fn uses_local_key<'a>(&self, environment: &'a Environment) -> Option<&'a Path> {
        let path = environment.local_key_file.as_deref()?;
        let from = self.key_from.as_deref()?;
        from.starts_with(&path.display().to_string()).then_some(path)
    }

    pub fn client_config(&self) -> Result<ClientConfig, Failure> {
        let extra_ca_pem = match &self.ca_file {
            Some(path) => Some(fs::read(path).map_err(|e| Failure::file("read", path, &e))?),
            None => None,
        };
        Ok(ClientConfig { server: self.server.clone(), key: self.key.clone(), extra_ca_pem })
    }
}

fn is_loopback(server: &Url) -> bool {
    match server.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
