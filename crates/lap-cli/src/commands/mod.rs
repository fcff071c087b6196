//! One file per family of commands; this one knows which is which.

mod agents;
mod attach;
mod config;
mod cp;
mod exec;
mod login;
mod logs;
mod open;
mod send;
mod sessions;
mod usage;

use clap::Parser;
use lap_client::Client;

use crate::args::{AgentCommand, AttachArgs, ClientCommand, ClientOptions, FaceArgs, Shorthand};
use crate::context::{Context, Io};
use crate::failure::{Exit, Failure};
use crate::profile::{Profiles, Target};

pub(crate) async fn dispatch(
    command: Option<ClientCommand>,
    options: &ClientOptions,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let command = match (command, &options.resume) {
        (None, Some(session)) => {
            let args = AttachArgs { session: session.clone(), face: FaceArgs::default(), view: false };
            return attach::attach(args, &connect(options, context)?, context).await;
        }
        (None, None) => {
            let help = (context.program)().render_help();
            context.io.talk(&help.to_string());
            return Ok(Exit::Usage);
        }
        (Some(_), Some(_)) => {
            return Err(Failure::usage("--resume goes without a command").hint("Write `lap --resume SESSION`."));
        }
        (Some(command), None) => command,
    };
    match command {
        ClientCommand::Login(args) => login::login(args, options, context).await,
        ClientCommand::Logout(args) => login::logout(&args, options, context),
        ClientCommand::Config(args) => config::config(args, options, context),
        ClientCommand::Agents(args) => agents::list(args, &connect(options, context)?, &mut context.io).await,
        ClientCommand::Agent(command) => {
            let client = connect(options, context)?;
            match command {
                AgentCommand::Create(args) => agents::create(*args, &client, context).await,
                AgentCommand::Show(args) => agents::show(args, &client, &mut context.io).await,
                AgentCommand::Edit(args) => agents::edit(*args, &client, context).await,
                AgentCommand::Delete(args) => agents::delete(args, &client, &mut context.io).await,
            }
        }
        ClientCommand::Open(args) => open::open(args, &connect(options, context)?, context).await,
        ClientCommand::Attach(args) => attach::attach(args, &connect(options, context)?, context).await,
        ClientCommand::Exec(args) => exec::exec(args, &connect(options, context)?, context).await,
        ClientCommand::Cp(args) => cp::cp(args, &connect(options, context)?, context).await,
        ClientCommand::Sessions(args) => sessions::list(args, &connect(options, context)?, context).await,
        ClientCommand::Send(args) => send::send(args, &connect(options, context)?, &mut context.io).await,
        ClientCommand::Logs(args) => logs::logs(args, &connect(options, context)?, &mut context.io).await,
        ClientCommand::Egress(args) => logs::egress(args, &connect(options, context)?, &mut context.io).await,
        ClientCommand::Usage(args) => usage::usage(args, &connect(options, context)?, &mut context.io).await,
        ClientCommand::Stop(args) => sessions::stop(&args, &connect(options, context)?, &mut context.io).await,
        ClientCommand::Delete(args) => sessions::delete(args, &connect(options, context)?, &mut context.io).await,
        ClientCommand::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut (context.program)(), "lap", &mut script);
            context.io.data(&String::from_utf8_lossy(&script))?;
            Ok(Exit::Ok)
        }
        ClientCommand::Shorthand(words) => {
            let Shorthand { options: more, open } = match Shorthand::try_parse_from(words) {
                Ok(parsed) => parsed,
                Err(problem) => return Ok(parse_problem(&problem, &mut context.io)),
            };
            let options = merged(options, more);
            if options.resume.is_some() {
                return Err(Failure::usage("--resume goes without an agent").hint("Write `lap --resume SESSION`."));
            }
            open::open(open, &connect(&options, context)?, context).await
        }
    }
}

/// Help of `lap AGENT --help` goes out as data; anything else is a wrong command line.
fn parse_problem(problem: &clap::Error, io: &mut Io) -> Exit {
    let text = problem.render().to_string();
    if problem.use_stderr() {
        io.talk(text.trim_end());
        return Exit::Usage;
    }
    // Nobody reads the help: then nobody needs the error either.
    let _ = io.data(&text);
    Exit::Ok
}

fn merged(before: &ClientOptions, after: ClientOptions) -> ClientOptions {
    let before = before.clone();
    ClientOptions {
        server: after.server.or(before.server),
        profile: after.profile.or(before.profile),
        ca_file: after.ca_file.or(before.ca_file),
        resume: after.resume.or(before.resume),
    }
}

/// A client of the server that options, environment and profile point to.
fn connect(options: &ClientOptions, context: &mut Context) -> Result<Client, Failure> {
    let profiles = Profiles::load(&context.environment, &mut context.io)?;
    let target = Target::find(options, &context.environment, &profiles)?;
    if let Some(path) = target.uses_local_key(&context.environment) {
        let path = path.display().to_string();
        context.io.talk(&format!("Using the key of the server on this machine ({path})."));
    }
    if target.key.is_none() {
        let server = target.server.as_str().trim_end_matches('/');
        return Err(Failure::new(Exit::Unauthorized, format!("there is no key for {server}"))
            .hint("`lap login` stores one; LAP_API_KEY gives one for a single command."));
    }
    client(&target)
}

fn client(target: &Target) -> Result<Client, Failure> {
    Client::new(target.client_config()?).map_err(|e| Failure::usage(e.to_string()))
}

/// Asks a yes-or-no question on standard error; only a clear yes is one.
fn confirm(io: &mut Io, question: &str) -> Result<(), Failure> {
    if !io.input_is_terminal {
        return Err(Failure::usage("this cannot be undone, and there is nobody to ask").hint("Add --yes to do it."));
    }
    let _ = write!(io.err, "{question} [y/N] ");
    let _ = io.err.flush();
    let answer = read_line(io)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Failure, "nothing was done")),
    }
}

/// One line of standard input, byte by byte so that nothing behind it is taken along.
fn read_line(io: &mut Io) -> Result<String, Failure> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        let n = io.input.read(&mut byte).map_err(|e| Failure::new(Exit::Failure, format!("could not read: {e}")))?;
        if n == 0 || byte[0] == b'\n' {
            return Ok(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned());
        }
        line.push(byte[0]);
    }
}

/// All of standard input, as text.
fn read_all(io: &mut Io) -> Result<String, Failure> {
    let mut text = Vec::new();
    io.input
        .read_to_end(&mut text)
        .map_err(|e| Failure::new(Exit::Failure, format!("could not read standard input: {e}")))?;
    String::from_utf8(text).map_err(|_| Failure::usage("standard input is not UTF-8 text"))
}
