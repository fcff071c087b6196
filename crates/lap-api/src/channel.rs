//! Byte streams between server and guest: terminals, commands beside the harness, files.
//!
//! The server opens a channel, the guest answers [`FromChannel::Opened`] or ends it. Bytes travel as data frames (see
//! `lap-link`), everything else as the messages here; within a direction all of it keeps its order. Each side sends at
//! most [`WINDOW_BYTES`] in at most [`WINDOW_FRAMES`] frames beyond what the other has acknowledged, so that a slow reader
//! costs nobody memory. When the link is lost every channel of it is over; what runs in the sandbox goes on, and a
//! terminal is found again by its program.

use serde::{Deserialize, Serialize};

/// Bytes of one direction of one channel that may be under way.
pub const WINDOW_BYTES: u64 = 256 * 1024;

/// Frames of one direction of one channel that may be under way.
pub const WINDOW_FRAMES: usize = 64;

/// Longest piece that is put into one data frame.
pub const CHUNK_BYTES: usize = 32 * 1024;

/// From the server to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "channel_order", rename_all = "snake_case")] // Travels inside of another message, whose tag is `type`.
pub enum ToChannel {
    /// Begins a channel; its number was never used before, by this server or an earlier one.
    Open { channel: u64, purpose: Purpose },
    /// All bytes before this position of the channel were passed on.
    Ack { channel: u64, position: u64 },
    /// The viewer's window has this size now.
    Resize { channel: u64, size: Size },
    /// No more input follows.
    Eof { channel: u64 },
    /// Nobody is interested any more.
    Close { channel: u64 },
    /// The link was lost, and every channel with it. Said by the sidecar.
    CloseAll,
}

/// From the guest to the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "channel_event", rename_all = "snake_case")] // Travels inside of another message, whose tag is `type`.
pub enum FromChannel {
    /// The channel serves its purpose now.
    Opened {
        channel: u64,
        /// Of a terminal: how many bytes its program had printed where this channel goes on.
        position: u64,
        /// Of a terminal: how many bytes of this client's input were taken before, over earlier channels.
        input: u64,
    },
    /// The next `bytes` bytes draw the screen as it stood at `position`, whatever was shown before.
    Repaint { channel: u64, position: u64, bytes: u64 },
    /// All input before this position of the channel was passed on.
    Ack { channel: u64, position: u64 },
    /// Nothing follows on this channel.
    Ended { channel: u64, end: End },
}

/// What a channel is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "purpose", rename_all = "snake_case")]
pub enum Purpose {
    /// A viewer of a program on a pseudo-terminal; the program is started when it does not run yet.
    Terminal {
        program: Program,
        /// Go on after this many bytes of output. Absent, or no longer kept: the screen is drawn first.
        from: Option<u64>,
        /// Draw the screen after going on, because something else was shown meanwhile.
        redraw: bool,
        /// Tells the same client again after a lost connection, so that none of its input is taken twice.
        client: Option<String>,
        /// Sees and types nothing.
        view_only: bool,
        /// The viewer's window.
        size: Option<Size>,
    },
    /// A command with pipes: stream 1 is its standard output, 2 its standard error, input goes to its standard input.
    Exec { command: Vec<String> },
    /// The content of a file.
    ReadFile { path: String },
    /// Input becomes the content of a file, which appears whole at the end of input.
    WriteFile { path: String },
    /// A folder's entries, as one JSON document.
    ListFiles { path: String },
}

/// What runs on a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "program", rename_all = "snake_case")]
pub enum Program {
    /// The harness's own terminal face.
    Harness,
    /// A shell in the working tree.
    Shell,
    /// This command, under a name that its client finds it again by.
    Command { name: String, command: Vec<String> },
}

/// Of a window, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub cols: u16,
    pub rows: u16,
}

/// How a channel came to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum End {
    /// The program ended with this status, or everything was said.
    Exited { code: i32 },
    /// The program was ended by this signal.
    Signalled { signal: i32 },
    /// It was refused, or could not go on: a code for programs and a sentence for a person.
    Failed { code: String, reason: String },
}
