//! `lap config`: which server, which key, from where. Never the key itself.

use serde_json::json;

use crate::args::{ClientOptions, ConfigArgs, ConfigCommand};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::profile::{Profiles, Target};

pub(super) fn config(args: ConfigArgs, options: &ClientOptions, context: &mut Context) -> Result<Exit, Failure> {
    match args.command {
        None => show(args.json, options, context),
        Some(ConfigCommand::Show { json }) => show(json || args.json, options, context),
        Some(ConfigCommand::Path) => {
            let path = Profiles::path(&context.environment)?;
            context.io.data(&format!("{}\n", path.display()))?;
            Ok(Exit::Ok)
        }
        Some(ConfigCommand::Use { name }) => use_profile(name, context),
    }
}

fn show(as_json: bool, options: &ClientOptions, context: &mut Context) -> Result<Exit, Failure> {
    let Context { environment, io, .. } = context;
    let profiles = Profiles::load(environment, io)?;
    let target = Target::find(options, environment, &profiles)?;
    let server = target.server.as_str().trim_end_matches('/');
    if as_json {
        let rows = profiles.profiles.iter().map(|(name, profile)| {
            let row = json!({ "server": profile.server, "has_key": profile.key.is_some(), "ca_file": profile.ca_file });
            (name.clone(), row)
        });
        let whole = json!({
            "server": server,
            "server_from": target.server_from,
            "key_from": target.key_from,
            "ca_file": target.ca_file,
            "profile": target.profile,
            "profiles": rows.collect::<serde_json::Map<_, _>>(),
        });
        io.json(&whole)?;
        return Ok(Exit::Ok);
    }
    let mut text = format!("server   {server} (from {})\n", target.server_from);
    text += &match &target.key_from {
        Some(from) => format!("key      set (from {from})\n"),
        None => "key      none; `lap login` stores one\n".to_owned(),
    };
    if let Some(path) = &target.ca_file {
        text += &format!("CA file  {}\n", path.display());
    }
    for (name, profile) in &profiles.profiles {
        let mark = if *name == target.profile { "*" } else { " " };
        let key = if profile.key.is_some() { "" } else { " (no key)" };
        text += &format!("profile {mark} {name}  {}{key}\n", profile.server);
    }
    io.data(&text)?;
    Ok(Exit::Ok)
}

fn use_profile(name: String, context: &mut Context) -> Result<Exit, Failure> {
    let Context { environment, io, .. } = context;
    let mut profiles = Profiles::load(environment, io)?;
    if !profiles.profiles.contains_key(&name) {
        return Err(Failure::new(Exit::NotFound, format!("there is no profile `{name}`"))
            .hint(format!("`lap login --profile {name} --server URL` makes it.")));
    }
    profiles.profile = Some(name.clone());
    profiles.save(environment)?;
    io.talk(&format!("Using profile {name}."));
    Ok(Exit::Ok)
}
