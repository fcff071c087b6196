//! Messages between server, sidecar and guest.
//!
//! The sidecar dials the server; guest and sidecar share a socket pair made before the guest exists. Every message is one
//! JSON frame (see `lap-link`); the bytes of channels (see [`crate::channel`]) are frames of their own kind beside them. Unknown variants are answered by ending the link, never by guessing: peers exchange
//! [`PROTOCOL`] first.
//!
//! What the sandbox did arrives as one numbered log, kept by the sidecar until the server says it is stored
//! ([`ServerToSidecar::Ack`]); after a lost link the server names the last number it has and the rest comes again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::agent::SandboxFile;
use crate::channel::{FromChannel, ToChannel};
use crate::event::DeltaKind;
use crate::message::{Attachment, Message, ToolCall};
use crate::session::Usage;
use crate::usage::Spend;

/// Version of everything in this file. A server speaks this and those before, back to the oldest.
pub const PROTOCOL: u32 = 3;

/// The oldest version a server still speaks to a sidecar that was started before it. 1 knows no channels, 2 no budgets.
pub const OLDEST_PROTOCOL: u32 = 1;

/// The first version that knows channels.
pub const CHANNELS_SINCE: u32 = 2;

/// The first version that meters model calls and keeps to budgets.
pub const BUDGETS_SINCE: u32 = 3;

/// First message of a sidecar on a fresh link.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    pub sandbox_id: String,
    /// Proof that this is the sidecar the server started; compared in constant time, never logged.
    pub boot_token: String,
    /// Number of the newest log entry the sidecar has; 0 for none.
    pub log_head: u64,
    /// True once [`ServerToSidecar::Boot`] was taken: a second one would be ignored.
    pub booted: bool,
    /// The last turn that was handed to the guest, so that none is sent twice.
    pub last_turn_id: Option<String>,
    /// Names of the session-level variables the sidecar holds; empty before boot.
    pub holds: Vec<String>,
    /// The sidecar's process id on its node.
    pub pid: u32,
    /// Whether it keeps limits: then it must hear when they are taken away.
    #[serde(default)]
    pub limited: bool,
    /// Revision of the egress lists its vault lives by; none from a sidecar of before lists could change.
    #[serde(default)]
    pub egress_revision: Option<u64>,
}

/// From server to sidecar.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerToSidecar {
    /// Answer to the hello: go on after this log entry. Anything else first means the hello was refused.
    Welcome { protocol: u32, resume_after: u64 },
    /// Everything the sandbox needs, once. Holds secrets: never logged.
    Boot(Box<Boot>),
    /// Replaces what the agent's and the platform's credentials mean. Holds secrets: never logged.
    Credentials {
        credentials: Vec<CredentialGrant>,
        /// Names whose value the server has not got at hand: these stay as they are.
        #[serde(default)]
        keep: Vec<String>,
    },
    /// Replaces the limits of what model calls may use.
    Budget(Budget),
    /// Replaces the lists, unless the vault has this revision or a newer one. Answered by [`LogEntry::EgressInForce`]. Only for
    /// sidecars whose hello names a revision.
    Egress { revision: u64, allow_out: Vec<String>, deny_out: Vec<String> },
    /// All entries up to this one are stored.
    Ack { seq: u64 },
    /// For the guest.
    Guest(Box<ToGuest>),
    /// For the guest, about a channel.
    Channel(ToChannel),
    /// End the sandbox now.
    Stop,
}

/// From sidecar to server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SidecarToServer {
    /// First on every link.
    Hello(Hello),
    /// One entry of the sandbox's log. Numbers rise by one.
    Log { seq: u64, at_ms: i64, entry: LogEntry },
    /// The guest said this about a channel. Not kept: without a link there are no channels.
    Channel(FromChannel),
}

/// One thing that happened in or around the sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LogEntry {
    /// The guest said something worth keeping.
    Guest(Report),
    /// The vault let a request through or refused it.
    Egress(EgressLine),
    /// A model call was metered.
    Metered(Metered),
    /// The sidecar took [`ServerToSidecar::Boot`]: from here on it holds the session's own variables.
    Booted,
    /// The vault judges by this revision of the session's lists from here on, and what they close is closed.
    EgressInForce { revision: u64 },
    /// A limit of the sandbox was hit.
    Limit { limit: String, detail: String },
    /// The sandbox's first process ended; nothing follows.
    SandboxExited { detail: String, oom: bool },
}

/// One line of the egress record; see `lap_api::session::Interception` for the meaning of the fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EgressLine {
    pub method: String,
    pub host: String,
    pub path: String,
    pub status: Option<u16>,
    pub bytes_out: u64,
    pub bytes_in: u64,
    pub duration_ms: u64,
    pub credentials: Vec<String>,
    pub verdict: String,
    pub detail: Option<String>,
}

/// What one model call used; `calls` is 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metered {
    /// As the gateway names it.
    pub model: String,
    pub spend: Spend,
}

/// The limits of a sandbox's model calls.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    pub allowances: Vec<Allowance>,
}

/// One limit and what counts against it already.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Allowance {
    pub whose: Whose,
    pub max_tokens: Option<u64>,
    pub max_cost_usd: Option<f64>,
    /// What others have used, as far as it is stored: not what the sidecar that reads this has metered itself.
    pub elsewhere: Spend,
}

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whose {
    /// The session's own.
    Session,
    /// The agent's, for all its sessions together.
    Agent,
}

/// What a sandbox gets at its start.
#[derive(Clone, Serialize, Deserialize)]
pub struct Boot {
    pub grants: Grants,
    pub guest: GuestBoot,
    /// Names of the session-level variables among the credentials.
    pub session_keys: Vec<String>,
    #[serde(default)]
    pub budget: Budget,
}

impl std::fmt::Debug for Boot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Boot").field("session_id", &self.guest.session_id).finish_non_exhaustive()
    }
}

/// What the vault may do for this sandbox.
#[derive(Clone, Serialize, Deserialize)]
pub struct Grants {
    pub credentials: Vec<CredentialGrant>,
    /// Egress entries in the syntax of the agent's lists.
    pub allow_out: Vec<String>,
    pub deny_out: Vec<String>,
    /// Which revision of the session's lists these are; 0: the agent's.
    #[serde(default)]
    pub egress_revision: u64,
    /// Hosts (`host[:port]`) open whatever `allow_out` says, deny still wins: MCP servers.
    pub implied: Vec<String>,
    /// Hosts (`host[:port]`) open until the guest reports that the clone is over: the repository's.
    pub implied_for_clone: Vec<String>,
    /// The operator's own openings of private ranges, `host[:port]` or CIDR.
    pub private_allow: Vec<String>,
    /// The operator's resolver overrides, `name=addr`.
    pub resolve: Vec<String>,
    /// The model gateway; absent when none is configured.
    pub gateway: Option<Gateway>,
    /// PEM certificates trusted upstream beside the system's.
    pub extra_ca_pem: Option<String>,
    /// Hosts (`host[:port]`, `*.suffix[:port]`) whose TLS passes unread. Older servers name none.
    #[serde(default)]
    pub passthrough: Vec<String>,
    /// The operator's own proxy, through which the vault reaches the world. Older servers name none.
    #[serde(default)]
    pub outbound: Option<Outbound>,
}

/// A proxy and the hosts it is not for.
#[derive(Clone, Serialize, Deserialize)]
pub struct Outbound {
    /// `http://[user:password@]host[:port]`: a secret.
    pub url: String,
    /// As `NO_PROXY` has them.
    pub no_proxy: String,
}

impl std::fmt::Debug for Grants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grants").field("credentials", &self.credentials.len()).finish_non_exhaustive()
    }
}

/// The model gateway as the sidecar sees it; inside it is `http://gateway.lap.internal`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Gateway {
    /// Real address, such as `https://litellm.example.com/base`.
    pub base_url: String,
}

/// A secret, its stub and where it may go.
#[derive(Clone, Serialize, Deserialize)]
pub struct CredentialGrant {
    /// The variable's name.
    pub name: String,
    pub stub: String,
    /// The real value. The reason this type has no `Debug` of its own.
    pub secret: String,
    pub scope: CredentialScope,
    /// Taken back when the guest reports that the clone is over (the platform's git token).
    pub clone_only: bool,
}

impl Drop for CredentialGrant {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.secret);
    }
}

impl std::fmt::Debug for CredentialGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CredentialGrant").field("name", &self.name).field("scope", &self.scope).finish_non_exhaustive()
    }
}

/// Where a credential may be swapped in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum CredentialScope {
    /// Entries `host`, `*.suffix`, with optional `:port` and `#body`, `#query`, `#path`, `#header`, `#ws`.
    Hosts { hosts: Vec<String> },
    /// Only the auth header of the gateway's model routes.
    Gateway,
    /// Any host that egress allows (unbound; the agent carries a warning).
    Anywhere,
}

/// From sidecar to guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")] // Travels inside of another message, whose tag is `type`.
pub enum ToGuest {
    /// Sent by the sidecar itself, first: the certificate that tools inside must trust.
    Trust { protocol: u32, ca_pem: String },
    /// Bring the sandbox up.
    Boot(Box<GuestBoot>),
    /// Run a turn. Turns come one at a time.
    Turn(Turn),
    /// Stop the running turn, if it is this one.
    Abort { turn_id: String },
    /// The answer to a permission request: `allow`, `allow_always` or `deny`.
    Permission { request_id: String, decision: String },
    /// About a channel.
    Channel(ToChannel),
}

/// One user message for the harness.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Turn {
    pub turn_id: String,
    pub text: String,
    pub attachments: Vec<Attachment>,
}

/// From guest to sidecar. The sidecar believes nothing in it: sizes are bounded, texts are data.
// Nearly every message is the large variant; a box would cost an allocation and save nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromGuest {
    /// The guest runs and listens: a sandbox exists.
    Hello { protocol: u32 },
    /// To be kept in the log.
    Report(Report),
    /// A line of output of guest, clone, installation or harness, for `sandbox_logs`.
    Line { source: String, text: String },
    /// About a channel.
    Channel(FromChannel),
}

/// What a guest knows at its start. No secret is in it: values are plain or stubs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GuestBoot {
    pub session_id: String,
    /// Environment of the harness and of every shell: plain values and stubs.
    pub env: BTreeMap<String, String>,
    /// Name and mail of commits, `Name <mail>`.
    pub git_author: String,
    pub repo: Option<Repo>,
    pub files: Vec<SandboxFile>,
    /// Written to the harness's skills folder, a folder each.
    pub skills: Vec<SkillFile>,
    /// pip requirements text.
    pub requirements: Option<String>,
    /// System prompt, skill blocks included.
    pub prompt: Option<String>,
    pub model: String,
    /// `bypass`, `ask` or `deny`.
    pub permission_mode: String,
    pub mcp_servers: Vec<McpServer>,
    pub harness: HarnessLaunch,
    /// `http://gateway.lap.internal`, where the model is.
    pub gateway_url: String,
    /// Stub of the gateway's key.
    pub gateway_key: String,
    /// The harness's conversation to go on with, after a restart.
    pub resume: Option<String>,
}

/// The repository to clone into `/work/repo`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Repo {
    pub url: String,
    pub branch: String,
    /// Stub of a token for the clone alone (the platform's git token).
    pub clone_token: Option<String>,
    /// Why the platform has no token of its own for it, for when the clone fails for want of one.
    #[serde(default)]
    pub no_token: Option<String>,
}

/// A skill as a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SkillFile {
    /// Name of its folder.
    pub slug: String,
    /// Whole text of `SKILL.md`, front matter included.
    pub content: String,
}

/// An MCP server the harness is to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct McpServer {
    pub name: String,
    pub url: String,
    /// Values are plain or hold stubs.
    pub headers: BTreeMap<String, String>,
}

/// How to start and drive the harness; made from `harnesses/<id>/harness.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HarnessLaunch {
    /// Such as `opencode`.
    pub id: String,
    pub version: String,
    /// Which adapter of the guest drives it, such as `opencode-serve`.
    pub adapter: String,
    /// Program and arguments; the first is absolute inside the sandbox.
    pub command: Vec<String>,
    /// Beside the session's own; the session's win.
    pub env: BTreeMap<String, String>,
    /// Folder, `~/…`, in which this harness finds skills.
    pub skills_dir: String,
    /// Files the harness needs before its first start.
    pub files: Vec<HarnessFile>,
    /// How its own terminal program is started; none where it has none.
    #[serde(default)]
    pub tui: Option<TuiLaunch>,
}

/// How a harness's own terminal program goes on with a conversation. `{conversation}`, `{address}` and `{password}` in
/// arguments and values are filled in by the adapter, which also adds what both faces share: model, prompt, MCP servers, permissions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TuiLaunch {
    /// Arguments for a conversation without a first message.
    pub args: Vec<String>,
    /// Arguments for one that has begun.
    pub resume_args: Vec<String>,
    /// Beside the harness's own.
    pub env: BTreeMap<String, String>,
    /// True: it joins the program that takes messages. False: only one of the two may have the conversation, so that one
    /// ends before the other starts.
    pub joins: bool,
}

/// A file of the harness's own in the home folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HarnessFile {
    /// `~/…`
    pub path: String,
    pub content: HarnessFileContent,
}

/// What such a file holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HarnessFileContent {
    /// This text.
    Text(String),
    /// A symbolic link to this path inside the sandbox.
    Link(String),
}

/// What the guest reports; kept in order, delivered exactly once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")] // Travels inside of another message, whose tag is `type`.
pub enum Report {
    /// Bring-up reached this phase (names as in the session's `phase`).
    Phase { phase: String, detail: Option<String> },
    /// The clone is over, well or not: what was granted for it ends.
    CloneDone { branch: Option<String>, commit: Option<String> },
    /// The harness takes turns now.
    Ready,
    /// The harness's conversation is open; this is its own name for it, by which another sandbox can go on with it.
    Conversation { harness_session_id: String },
    /// Bring-up failed; a sentence for a person.
    BootFailed { code: String, reason: String },
    /// The harness has the turn.
    TurnStarted { turn_id: String },
    /// A piece of the answer.
    Delta { turn_id: String, part_id: String, kind: DeltaKind, delta: String },
    /// A tool call began, went on or ended.
    Tool { turn_id: String, call: ToolCall },
    /// The harness asks before it acts.
    PermissionRequested { turn_id: String, request_id: String, title: String, input: serde_json::Value },
    /// An utterance is final.
    MessageCompleted { turn_id: String, message: Message },
    /// The turn is over. `message` is the last utterance, `usage` that of the turn.
    TurnCompleted { turn_id: String, message: Message, usage: Usage },
    /// The turn ended without an answer: `aborted`, `harness_failed`, …
    TurnFailed { turn_id: String, code: String, error: String },
    /// The harness process ended unasked; the guest starts it again unless it says so.
    HarnessExited { detail: String, restarting: bool },
}
