//! Text frames of a terminal's WebSocket. Binary frames are the terminal's bytes, both ways.
//!
//! A client that knows none of these frames still works: it shows the bytes it gets and sends the bytes it has.

use serde::{Deserialize, Serialize};

/// Longest message a client may send; a longer one closes the connection with code 1009.
pub const MAX_CLIENT_MESSAGE_BYTES: usize = 1024 * 1024;

/// From the client. What is not known is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TtyClientFrame {
    /// The window has this size.
    Resize { cols: u16, rows: u16 },
    /// Answered by [`TtyServerFrame::Pong`].
    Ping,
    /// Of a command with pipes: no more input follows.
    Eof,
    /// First on the WebSocket of `…/exec`: what to run.
    Start {
        cmd: Vec<String>,
        /// On a terminal of this size, or with pipes.
        #[serde(default)]
        tty: Option<WindowSize>,
        /// Of a command on a terminal: the same as on `…/tty`. A client that comes back repeats all of it, and finds its
        /// command again.
        #[serde(default)]
        client: Option<String>,
        #[serde(default)]
        from: Option<u64>,
        #[serde(default)]
        redraw: bool,
    },
    #[serde(other)]
    Unknown,
}

/// Of a window, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    pub cols: u16,
    pub rows: u16,
}

/// From the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TtyServerFrame {
    /// First: the program had printed `position` bytes where this connection goes on, and `input` bytes of this client
    /// (`?client=`) were taken over earlier connections.
    Attached {
        position: u64,
        input: u64,
    },
    /// The next `bytes` bytes draw the screen as it stood at `position`; they do not count as output.
    Repaint {
        position: u64,
        bytes: u64,
    },
    /// So many bytes of this client (`?client=`) were taken in all.
    Ack {
        input: u64,
    },
    /// The program has ended, with a status or by a signal. The connection closes after it.
    Exit {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<i32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
    },
    /// The terminal cannot go on. The connection closes after it.
    Error {
        code: String,
        error: String,
    },
    Pong,
    #[serde(other)]
    Unknown,
}
