//! A session's terminal over a WebSocket: one connection, with the positions that let the next one go on where it ended.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::header::{AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Method, Request, Uri};
use lap_api::exec::{ExecRequest, ExecResult};
use lap_api::tty::{TtyClientFrame, TtyServerFrame, WindowSize};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use url::Url;

use crate::connect::Stream;
use crate::error::{ApiError, Error, root_cause};
use crate::transport::{Call, Client};

/// From the connection to the answer to the upgrade.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(30);

/// Longest message taken; the server sends far shorter ones.
const MESSAGE_LIMIT: usize = 4 * 1024 * 1024;

/// How to attach.
#[derive(Debug, Clone, Default)]
pub struct TtyOptions {
    /// A shell beside the harness instead of the harness's own terminal.
    pub shell: bool,
    /// Go on after this many bytes of output.
    pub from: Option<u64>,
    /// Have the screen drawn in any case.
    pub redraw: bool,
    /// A name for this client, so that input is taken once whatever happens to connections.
    pub client: Option<String>,
    /// Only look.
    pub view_only: bool,
    /// The window.
    pub size: Option<WindowSize>,
}

/// What comes from a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TtyEvent {
    /// Bytes the program printed, or of a picture.
    Data(Bytes),
    /// Everything else.
    Frame(TtyServerFrame),
    /// The server says goodbye.
    Closed {
        /// Why, as WebSocket numbers it.
        code: u16,
        /// Why, in words.
        reason: String,
    },
}

impl Client {
    /// Attaches to a session's terminal.
    pub async fn tty(&self, session_id: &str, options: &TtyOptions) -> Result<(TtyWriter, TtyReader), Error> {
        let TtyOptions { shell, from, redraw, client, view_only, size } = options;
        let mut url = self.address(&["sessions", session_id, "tty"]);
        {
            let mut query = url.query_pairs_mut();
            let mut add = |name: &str, value: Option<String>| {
                if let Some(value) = value {
                    query.append_pair(name, &value);
                }
            };
            add("program", shell.then(|| "shell".to_owned()));
            add("from", from.map(|from| from.to_string()));
            add("redraw", redraw.then(|| "true".to_owned()));
            add("client", client.clone());
            add("mode", view_only.then(|| "view".to_owned()));
            add("cols", size.map(|size| size.cols.to_string()));
            add("rows", size.map(|size| size.rows.to_string()));
        }
        self.web_socket(&url).await
    }

    /// Runs a command beside the harness on a terminal, or comes back to it.
    pub async fn exec_on_tty(
        &self,
        session_id: &str,
        cmd: Vec<String>,
        options: &TtyOptions,
    ) -> Result<(TtyWriter, TtyReader), Error> {
        let TtyOptions { shell: _, from, redraw, client, view_only: _, size } = options.clone();
        let tty = Some(size.unwrap_or(WindowSize { cols: 80, rows: 24 }));
        self.start(session_id, TtyClientFrame::Start { cmd, tty, client, from, redraw }).await
    }

    /// Runs a command beside the harness with pipes: each piece of output begins with the number of its stream.
    pub async fn exec_with_pipes(&self, session_id: &str, cmd: Vec<String>) -> Result<(TtyWriter, TtyReader), Error> {
        let start = TtyClientFrame::Start { cmd, tty: None, client: None, from: None, redraw: false };
        self.start(session_id, start).await
    }

    async fn start(&self, session_id: &str, start: TtyClientFrame) -> Result<(TtyWriter, TtyReader), Error> {
        let (mut writer, reader) = self.web_socket(&self.address(&["sessions", session_id, "exec"])).await?;
        writer.say(&start).await?;
        Ok((writer, reader))
    }

    /// Runs a command beside the harness and collects what it prints.
    pub async fn exec(&self, session_id: &str, exec: &ExecRequest) -> Result<ExecResult, Error> {
        let call = Call::managed(Method::POST, &["sessions", session_id, "exec"]).body(exec).deadline(None);
        self.json(call).await
    }

    async fn web_socket(&self, url: &Url) -> Result<(TtyWriter, TtyReader), Error> {
        let unreachable = |cause: String| Error::Unreachable { server: self.server().to_owned(), cause };
        let uri: Uri = url.as_str().parse().map_err(|e: http::uri::InvalidUri| self.unintelligible(&e))?;
        let stream = self.connector().alone(uri).await.map_err(|e| unreachable(root_cause(&e)))?;
        let request = self.upgrade_request(url)?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_LIMIT))
            .max_frame_size(Some(MESSAGE_LIMIT))
            .write_buffer_size(0);
        let shaking = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
        let waited = UPGRADE_DEADLINE;
        let shaken = tokio::time::timeout(waited, shaking)
            .await
            .map_err(|_| Error::Timeout { server: self.server().to_owned(), waited })?;
        match shaken {
            Ok((socket, _)) => {
                let (to, from) = socket.split();
                Ok((
                    TtyWriter { to, server: self.server().to_owned() },
                    TtyReader { from, server: self.server().to_owned() },
                ))
            }
            Err(tungstenite::Error::Http(answer)) => {
                let body = answer.body().as_deref().unwrap_or_default();
                Err(Error::Api(ApiError::read(answer.status().as_u16(), body)))
            }
            Err(problem) => Err(lost(self.server(), &problem)),
        }
    }

    fn upgrade_request(&self, url: &Url) -> Result<Request<()>, Error> {
        let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
        let text = url.as_str().replacen(url.scheme(), scheme, 1);
        let mut request = text.into_client_request().map_err(|e| self.unintelligible(&e))?;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("lap/", env!("CARGO_PKG_VERSION"))));
        if let Some(authorization) = self.authorization() {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }
}

fn lost(server: &str, problem: &tungstenite::Error) -> Error {
    Error::Lost { server: server.to_owned(), cause: root_cause(problem) }
}

/// What goes to the terminal.
#[derive(Debug)]
pub struct TtyWriter {
    to: SplitSink<WebSocketStream<Stream>, Message>,
    server: String,
}

impl TtyWriter {
    /// Types.
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.to.send(Message::Binary(bytes)).await.map_err(|e| lost(&self.server, &e))
    }

    /// Says something beside.
    pub async fn say(&mut self, frame: &TtyClientFrame) -> Result<(), Error> {
        let text = serde_json::to_string(frame).expect("wire types serialise");
        self.to.send(Message::Text(text.into())).await.map_err(|e| lost(&self.server, &e))
    }

    /// Goes away in order.
    pub async fn close(mut self) {
        // The server notices otherwise too.
        let _ = self.to.close().await;
    }
}

/// What comes from the terminal.
#[derive(Debug)]
pub struct TtyReader {
    from: SplitStream<WebSocketStream<Stream>>,
    server: String,
}

impl TtyReader {
    /// What comes next; an error when the connection is lost. Safe to drop between polls.
    pub async fn next(&mut self) -> Result<TtyEvent, Error> {
        loop {
            match self.from.next().await {
                Some(Ok(Message::Binary(bytes))) => return Ok(TtyEvent::Data(bytes)),
                Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                    Ok(frame) => return Ok(TtyEvent::Frame(frame)),
                    Err(problem) => {
                        let cause = problem.to_string();
                        return Err(Error::Unintelligible { server: self.server.clone(), cause });
                    }
                },
                Some(Ok(Message::Close(frame))) => {
                    let (code, reason) =
                        frame.map_or((1005, String::new()), |frame| (frame.code.into(), frame.reason.to_string()));
                    return Ok(TtyEvent::Closed { code, reason });
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(problem)) => return Err(lost(&self.server, &problem)),
                None => {
                    let cause = "the server hung up".to_owned();
                    return Err(Error::Lost { server: self.server.clone(), cause });
                }
            }
        }
    }
}
