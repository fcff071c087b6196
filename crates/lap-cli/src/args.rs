//! The command line. Every word of help is here.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};

/// Ends the help of the whole program.
pub const AFTER_HELP: &str = "\
The server: --server, then LAP_SERVER, then the profile in use (`lap config`),
  then http://127.0.0.1:4773
The key: LAP_API_KEY, then the profile's, then that of a server on this machine,
  where you may read it

Exit codes:
  0    it worked
  1    it did not: the server cannot be reached, a file cannot be read, …
  2    wrong usage, or a name that fits several agents
  3    no such agent, session or profile
  4    no key, a wrong key, or a key without the right
  5    the session failed or has ended, or the turn failed
  130  interrupted
`lap exec` exits as its command did.";

/// `lap` with the client's commands alone, as tests and documents see it.
#[derive(Debug, Parser)]
#[command(name = "lap", version, about = "Run coding agents in sandboxes of your own", after_help = AFTER_HELP)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub options: ClientOptions,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<CliCommand>,
}

/// How a program catches `lap AGENT` beside the commands.
#[derive(Debug, Subcommand)]
pub enum CliCommand {
    /// One of the commands.
    #[command(flatten)]
    Client(ClientCommand),
    /// Words that begin with none.
    #[command(external_subcommand)]
    Agent(Vec<OsString>),
}

impl From<CliCommand> for ClientCommand {
    fn from(command: CliCommand) -> Self {
        match command {
            CliCommand::Client(command) => command,
            CliCommand::Agent(words) => ClientCommand::Shorthand(words),
        }
    }
}

/// Options of every client command.
#[derive(Debug, Clone, Default, Args)]
pub struct ClientOptions {
    /// Address of the server, such as https://lap.example.com
    #[arg(long, global = true, value_name = "URL", value_hint = ValueHint::Url, help_heading = "Server")]
    pub server: Option<String>,
    /// Profile of ~/.lap/config.json to use
    #[arg(long, global = true, value_name = "NAME", help_heading = "Server")]
    pub profile: Option<String>,
    /// PEM file with certificates to trust beside the system's
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Server")]
    pub ca_file: Option<PathBuf>,
    /// Attach to this session (an id or a URL that ends with one); the same as `lap attach`
    #[arg(long, value_name = "SESSION")]
    pub resume: Option<String>,
}

/// The commands that talk to a server.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Check a key against a server and keep both in a profile
    Login(LoginArgs),
    /// Forget a profile's key
    Logout(LogoutArgs),
    /// Show or change which server and key are used
    Config(ConfigArgs),
    /// List agents
    Agents(AgentsArgs),
    /// Create, show, edit or delete an agent
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Chat with an agent in a sandbox; `lap AGENT` is short for it
    #[command(after_help = OPEN_HELP)]
    Open(OpenArgs),
    /// Go on with a session
    Attach(AttachArgs),
    /// Run a command in a session's sandbox, beside the harness
    Exec(ExecArgs),
    /// Copy a file into a session's sandbox or out of it
    Cp(CpArgs),
    /// List sessions
    Sessions(SessionsArgs),
    /// Send one message and print the answer as it comes
    Send(SendArgs),
    /// Show what happened in a session
    Logs(LogsArgs),
    /// Show what the vault let out of a session's sandbox and what it refused, or change where it may go
    Egress(EgressArgs),
    /// Show what model calls used: tokens and cost
    Usage(UsageArgs),
    /// End a session; its conversation stays readable
    Stop(SessionArgs),
    /// End a session and erase it
    Delete(DeleteArgs),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS_HELP)]
    Completions(CompletionsArgs),
    /// `lap AGENT [options of lap open]`: words that begin with no command. The embedding parser catches them with its own
    /// `external_subcommand`, since one in a flattened enum would swallow the parser's own commands too.
    #[command(skip)]
    Shorthand(Vec<OsString>),
}

const OPEN_HELP: &str = "\
Goes on with the agent's newest live session where there is one, and says so;
--new starts a fresh one, and so does giving variables or a branch.

In the chat Ctrl-C stops the running turn or clears the line, Ctrl-D leaves and
keeps the session running, /help lists more.

Without a terminal the whole standard input is one message, and the answer goes
to standard output:

  echo 'fix the failing test' | lap backend";

const COMPLETIONS_HELP: &str = "\
Where they go:
  bash:  lap completions bash > ~/.local/share/bash-completion/completions/lap
  zsh:   lap completions zsh > \"${fpath[1]}/_lap\"
  fish:  lap completions fish > ~/.config/fish/completions/lap.fish";

/// `lap login`
#[derive(Debug, Args)]
#[command(
    after_help = "The key is asked for without showing it. It is never taken from the command\nline, where others could read it:\n  lap login --server https://lap.example.com --key-stdin < key.txt"
)]
pub struct LoginArgs {
    /// Read the key from standard input
    #[arg(long)]
    pub key_stdin: bool,
}

/// `lap logout`
#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// Forget every profile
    #[arg(long)]
    pub all: bool,
}

/// `lap config`
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to do; nothing: show
    #[command(subcommand)]
    pub command: Option<ConfigCommand>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Below `lap config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show the server in use, where its address and key come from, and all profiles
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the path of the configuration file
    Path,
    /// Use this profile from now on
    Use {
        /// Its name
        #[arg(value_name = "PROFILE")]
        name: String,
    },
}

/// `lap agents`
#[derive(Debug, Args)]
pub struct AgentsArgs {
    /// Only agents with this in their name, id or harness
    #[arg(long, value_name = "TEXT")]
    pub search: Option<String>,
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

/// Below `lap agent`.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Store a new agent
    #[command(after_help = CREATE_HELP)]
    Create(Box<AgentCreateArgs>),
    /// Show an agent
    Show(AgentShowArgs),
    /// Change an agent; what is not given stays
    #[command(after_help = EDIT_HELP)]
    Edit(Box<AgentEditArgs>),
    /// Delete an agent and end its sessions
    Delete(AgentDeleteArgs),
}

const CREATE_HELP: &str = "\
Secrets: `-e KEY` takes the value from your environment and --env-file from a
file; values never stand on the command line. In the sandbox a secret is a stub;
the real value is put in on the wire, toward the hosts it belongs to.

  lap agent create backend --model anthropic/claude-opus-4-7 \\
      --repo https://github.com/acme/backend -e GITHUB_TOKEN --allow-out '*.github.com'
  lap agent create -f agent.json";

const EDIT_HELP: &str = "\
An empty value clears a field that may be empty: --prompt ''
Lists are replaced as a whole; -e adds or changes single variables, --unset-env
removes them.";

/// A limit as it is given; `none` takes it away.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit<T>(pub Option<T>);

/// Fields that creating and editing share.
#[derive(Debug, Default, Args)]
pub struct AgentFields {
    /// Model as the gateway names it, such as anthropic/claude-opus-4-7
    #[arg(short, long)]
    pub model: Option<String>,
    /// System prompt
    #[arg(short, long, value_name = "TEXT", conflicts_with = "prompt_file")]
    pub prompt: Option<String>,
    /// File with the system prompt
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub prompt_file: Option<PathBuf>,
    /// Git repository to clone, https://…
    #[arg(short, long, value_name = "URL", value_hint = ValueHint::Url)]
    pub repo: Option<String>,
    /// Branch to clone [default of the server: main]
    #[arg(short, long)]
    pub branch: Option<String>,
    /// Variable whose value is taken from your environment (repeatable)
    #[arg(short = 'e', long = "env", value_name = "KEY")]
    pub env: Vec<String>,
    /// File of KEY=VALUE lines (repeatable)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub env_file: Vec<PathBuf>,
    /// Variable that is no secret and reaches the sandbox as it is (repeatable)
    #[arg(long, value_name = "KEY")]
    pub plain: Vec<String>,
    /// Hosts a credential may be sent to (repeatable)
    #[arg(long, value_name = "KEY=HOST[,HOST…]", value_parser = crate::variables::key_and_hosts)]
    pub env_hosts: Vec<(String, Vec<String>)>,
    /// Host, *.suffix, address or CIDR that may be reached; anything else is then refused (repeatable)
    #[arg(long, value_name = "ENTRY")]
    pub allow_out: Vec<String>,
    /// Host, *.suffix, address or CIDR that may not be reached (repeatable)
    #[arg(long, value_name = "ENTRY")]
    pub deny_out: Vec<String>,
    /// URL of an MCP server (repeatable)
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub mcp_server: Vec<String>,
    /// File to put into every sandbox (repeatable)
    #[arg(long, value_name = "LOCAL:SANDBOX_PATH", value_parser = crate::variables::file_pair)]
    pub file: Vec<(PathBuf, String)>,
    /// Id of a skill to attach (repeatable, in order)
    #[arg(long, value_name = "ID")]
    pub skill: Vec<String>,
    /// Whether the agent asks before it acts: bypass, ask or deny
    #[arg(long, value_name = "MODE")]
    pub permission_mode: Option<String>,
    /// Sandbox image
    #[arg(long)]
    pub image: Option<String>,
    /// File of pip requirements installed at start
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub requirements: Option<PathBuf>,
    /// How many tokens the model calls of all its sessions may use; none: no limit
    #[arg(long, value_name = "N|none", value_parser = crate::variables::limit::<u64>)]
    pub max_tokens: Option<Limit<u64>>,
    /// How many US dollars they may cost; none: no limit
    #[arg(long, value_name = "USD|none", value_parser = crate::variables::limit::<f64>)]
    pub max_cost_usd: Option<Limit<f64>>,
    /// JSON file with any fields of the API; options given beside it win
    #[arg(short = 'f', long = "from", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub from: Option<PathBuf>,
    /// Print the agent as JSON
    #[arg(long)]
    pub json: bool,
}

/// `lap agent create`
#[derive(Debug, Args)]
pub struct AgentCreateArgs {
    /// What to call it; `lap NAME` opens it
    #[arg(value_name = "NAME", conflicts_with = "name")]
    pub label: Option<String>,
    /// The same as NAME
    #[arg(long)]
    pub name: Option<String>,
    /// Harness: opencode, claude-agent-sdk, claude-code or codex [default of the server: opencode]
    #[arg(long, value_name = "ID")]
    pub harness: Option<String>,
    /// Everything else.
    #[command(flatten)]
    pub fields: AgentFields,
}

/// `lap agent edit`
#[derive(Debug, Args)]
pub struct AgentEditArgs {
    /// Name or id
    pub agent: String,
    /// New name
    #[arg(long)]
    pub name: Option<String>,
    /// Variable to remove (repeatable)
    #[arg(long, value_name = "KEY")]
    pub unset_env: Vec<String>,
    /// Everything else.
    #[command(flatten)]
    pub fields: AgentFields,
}

/// `lap agent show`
#[derive(Debug, Args)]
pub struct AgentShowArgs {
    /// Name or id
    pub agent: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `lap agent delete`
#[derive(Debug, Args)]
pub struct AgentDeleteArgs {
    /// Name or id
    pub agent: String,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// `lap open`
#[derive(Debug, Clone, Args)]
pub struct OpenArgs {
    /// Name or id of the agent
    pub agent: String,
    /// Start a fresh session even when one is live
    #[arg(long)]
    pub new: bool,
    /// Variable of this session alone, its value taken from your environment (repeatable)
    #[arg(short = 'e', long = "env", value_name = "KEY")]
    pub env: Vec<String>,
    /// File of KEY=VALUE lines for this session alone (repeatable)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub env_file: Vec<PathBuf>,
    /// Variable of these that is no secret and reaches the sandbox as it is (repeatable)
    #[arg(long, value_name = "KEY")]
    pub plain: Vec<String>,
    /// Branch to clone instead of the agent's
    #[arg(short, long)]
    pub branch: Option<String>,
    /// Title of a new session
    #[arg(long)]
    pub title: Option<String>,
    /// How to show it
    #[command(flatten)]
    pub face: FaceArgs,
}

/// `lap AGENT …`, parsed from what no command took.
#[derive(Debug, Parser)]
#[command(name = "lap", no_binary_name = true, after_help = OPEN_HELP)]
pub(crate) struct Shorthand {
    #[command(flatten)]
    pub options: ClientOptions,
    #[command(flatten)]
    pub open: OpenArgs,
}

const ATTACH_HELP: &str = "\
Sessions of harnesses that live in a terminal (claude-code, codex) are attached
there, others as a chat; --terminal and --chat choose.

In the harness's terminal Ctrl-D leaves and keeps everything running; in a shell
it is the shell's. After Enter, ~. leaves everywhere, ~d types Ctrl-D, ~? helps.
A lost connection comes back by itself.";

/// `lap attach`
#[derive(Debug, Args)]
#[command(after_help = ATTACH_HELP)]
pub struct AttachArgs {
    /// Id of the session, or a URL that ends with it
    pub session: String,
    /// How to show it
    #[command(flatten)]
    pub face: FaceArgs,
    /// Only look: what is typed goes nowhere
    #[arg(long, conflicts_with = "chat")]
    pub view: bool,
}

/// Which face of a session is shown.
#[derive(Debug, Clone, Default, Args)]
#[group(multiple = false)]
pub struct FaceArgs {
    /// The harness's own terminal
    #[arg(long, short = 't')]
    pub terminal: bool,
    /// A shell in the sandbox, beside the harness
    #[arg(long)]
    pub shell: bool,
    /// A chat
    #[arg(long)]
    pub chat: bool,
}

const EXEC_HELP: &str = "\
With a terminal on both sides the command gets one too, and Ctrl-C reaches it;
otherwise its input, output and errors are passed on as they are. The exit code
is the command's, or 128 and the number of the signal that ended it.

  lap exec SESSION -- git status
  lap exec SESSION -- sh -c 'cd sub && make' > log";

/// `lap exec`
#[derive(Debug, Args)]
#[command(after_help = EXEC_HELP)]
pub struct ExecArgs {
    /// Id of the session, or a URL that ends with it
    pub session: String,
    /// Never on a terminal
    #[arg(short = 'T', long)]
    pub no_terminal: bool,
    /// Program and arguments; none: a shell
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `lap cp`
#[derive(Debug, Args)]
#[command(
    after_help = "Paths of a sandbox are below /work or in the home folder (~/…); relative ones\nare meant in /work/repo. For folders:\n  tar -c folder | lap exec SESSION -- tar -x"
)]
pub struct CpArgs {
    /// SESSION:PATH, or a file here
    pub from: String,
    /// A file or folder here, or SESSION:PATH (a folder, when it ends with /)
    pub to: String,
}

/// `lap sessions`
#[derive(Debug, Args)]
pub struct SessionsArgs {
    /// Only this agent's (name or id)
    #[arg(long)]
    pub agent: Option<String>,
    /// Only sessions in this state
    #[arg(long, value_parser = ["creating", "ready", "failed", "dead"])]
    pub status: Option<String>,
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

/// `lap send`
#[derive(Debug, Args)]
#[command(
    after_help = "The answer goes to standard output as it comes, tool calls to standard error.\nCtrl-C stops the turn. The exit code is 5 when the turn fails."
)]
pub struct SendArgs {
    /// Id of the session, or a URL that ends with it
    pub session: String,
    /// The message; - reads standard input
    pub text: String,
    /// Print the reply {info, parts} as JSON once it is there
    #[arg(long, conflicts_with = "no_wait")]
    pub json: bool,
    /// Return once the server has the message; prints the turn's id
    #[arg(long)]
    pub no_wait: bool,
}

/// `lap logs`
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Id of the session, or a URL that ends with it
    pub session: String,
    /// Go on with what happens next, until the session ends
    #[arg(short, long)]
    pub follow: bool,
    /// Show the raw output of the sandbox instead: clone, installation, harness
    #[arg(long, conflicts_with_all = ["json", "follow"])]
    pub sandbox: bool,
    /// Only the last N lines
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub tail: Option<u32>,
    /// Print one event per line as JSON, pieces of answers included
    #[arg(long)]
    pub json: bool,
}

const EGRESS_HELP: &str = "\
With --allow-out or --deny-out the lists of a live session are replaced instead,
for its next request on; what they close is closed at once. An empty value
empties a list:

  lap egress SESSION --allow-out api.example.com --allow-out '*.github.com'
  lap egress SESSION --deny-out ''";

/// `lap egress`
#[derive(Debug, Args)]
#[command(after_help = EGRESS_HELP)]
pub struct EgressArgs {
    /// Id of the session, or a URL that ends with it
    pub session: String,
    /// Host, *.suffix, address or CIDR that this session may reach; anything else is then refused (repeatable)
    #[arg(long, value_name = "ENTRY")]
    pub allow_out: Vec<String>,
    /// Host, *.suffix, address or CIDR that this session may not reach (repeatable)
    #[arg(long, value_name = "ENTRY")]
    pub deny_out: Vec<String>,
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

/// `lap usage`
#[derive(Debug, Args)]
pub struct UsageArgs {
    /// What to sum by: agent, session, model, day, with commas between [default of the server: agent,model,day]
    #[arg(long, value_name = "WHAT")]
    pub by: Option<String>,
    /// Only this agent, by name or id
    #[arg(long)]
    pub agent: Option<String>,
    /// Only this session, by id or URL
    #[arg(long)]
    pub session: Option<String>,
    /// Only this model
    #[arg(long)]
    pub model: Option<String>,
    /// From this day on, in UTC
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub from: Option<String>,
    /// Up to this day
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub to: Option<String>,
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

/// A session and nothing else.
#[derive(Debug, Args)]
pub struct SessionArgs {
    /// Id of the session, or a URL that ends with it
    pub session: String,
}

/// `lap delete`
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Id of the session, or a URL that ends with it
    pub session: String,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// `lap completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// bash, elvish, fish, powershell or zsh
    pub shell: clap_complete::Shell,
}
