//! One HTTP call and its answer. The typed methods in the other files are sentences over this.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::config::{self, ClientConfig, ConfigError};
use crate::connect::Connector;
use crate::error::{ApiError, Error, root_cause};

/// Answers of ordinary calls; a server that takes longer has a problem worth hearing about.
pub(crate) const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// An answer larger than this is not one of ours. Lists of agents with files stay far below it.
const BODY_LIMIT: usize = 128 * 1024 * 1024;

/// Shorter than what servers and proxies usually keep idle connections for.
const POOL_IDLE: Duration = Duration::from_secs(50);

/// A client of one server. Clones share connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

/// What is sent: as a whole, or as it comes.
type Body = UnsyncBoxBody<Bytes, std::io::Error>;

struct Inner {
    http: HyperClient<Connector, Body>,
    connector: Connector,
    server: Url,
    authorization: Option<HeaderValue>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("server", &self.inner.server.as_str()).finish_non_exhaustive()
    }
}

impl Client {
    /// Makes a client; nothing is sent yet.
    pub fn new(config: ClientConfig) -> Result<Self, ConfigError> {
        let ClientConfig { server, key, extra_ca_pem } = config;
        let server = config::server_url(server.as_str())?;
        let authorization = match key {
            Some(key) => {
                let mut value =
                    HeaderValue::from_str(&format!("Bearer {}", key.expose())).map_err(|_| ConfigError::Key)?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let tls = config::tls(server.scheme() == "https", extra_ca_pem.as_deref())?;
        let connector = Connector { tls };
        let http = HyperClient::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector.clone());
        Ok(Self { inner: Arc::new(Inner { http, connector, server, authorization }) })
    }

    /// The server's address, without a slash at its end.
    pub fn server(&self) -> &str {
        self.inner.server.as_str().trim_end_matches('/')
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.inner.connector
    }

    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.inner.authorization.as_ref()
    }

    /// The address of a route below `/api/v1/managed_agents`.
    pub(crate) fn address(&self, path: &[&str]) -> Url {
        let mut url = self.inner.server.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v1", "managed_agents"]).extend(path);
        }
        url
    }

    pub(crate) async fn json<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, Error> {
        let bytes = self.bytes(call).await?;
        serde_json::from_slice(&bytes).map_err(|e| self.unintelligible(&e))
    }

    pub(crate) async fn empty(&self, call: Call<'_>) -> Result<(), Error> {
        self.bytes(call).await.map(drop)
    }

    pub(crate) async fn text(&self, call: Call<'_>) -> Result<String, Error> {
        let bytes = self.bytes(call).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn bytes(&self, call: Call<'_>) -> Result<Bytes, Error> {
        let waited = call.deadline;
        let whole = async { self.collect(self.open(call).await?.into_body()).await };
        match waited {
            Some(waited) => tokio::time::timeout(waited, whole)
                .await
                .unwrap_or_else(|_| Err(Error::Timeout { server: self.server().to_owned(), waited })),
            None => whole.await,
        }
    }

    /// Sends the request and returns as soon as the head of a good answer is there; any other answer is an error.
    pub(crate) async fn open(&self, call: Call<'_>) -> Result<Response<Incoming>, Error> {
        let waited = call.deadline;
        let answering = self.inner.http.request(self.request(call)?);
        let answer = match waited {
            Some(waited) => tokio::time::timeout(waited, answering)
                .await
                .map_err(|_| Error::Timeout { server: self.server().to_owned(), waited })?,
            None => answering.await,
        };
        let answer = answer.map_err(|e| {
            let (server, cause) = (self.server().to_owned(), root_cause(&e));
            if e.is_connect() { Error::Unreachable { server, cause } } else { Error::Lost { server, cause } }
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = tokio::time::timeout(ANSWER_DEADLINE, self.collect(answer.into_body())).await;
        let body = body.unwrap_or_else(|_| Ok(Bytes::new())).unwrap_or_default();
        Err(Error::Api(ApiError::read(status.as_u16(), &body)))
    }

    async fn collect(&self, body: Incoming) -> Result<Bytes, Error> {
        let body = Limited::new(body, BODY_LIMIT).collect().await;
        body.map(http_body_util::Collected::to_bytes)
            .map_err(|e| Error::Lost { server: self.server().to_owned(), cause: root_cause(&*e) })
    }

    fn request(&self, call: Call<'_>) -> Result<Request<Body>, Error> {
        let Call { method, path, query, body, headers, accept, deadline: _ } = call;
        let mut url = self.inner.server.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.iter());
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = Request::builder()
            .method(method)
            .uri(url.as_str())
            .header(ACCEPT, accept)
            .header(USER_AGENT, concat!("lap/", env!("CARGO_PKG_VERSION")));
        if let Some(authorization) = &self.inner.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let body = match body {
            Some(Content::Json(body)) => {
                request = request.header(CONTENT_TYPE, "application/json");
                whole(body)
            }
            Some(Content::Stream(body)) => {
                request = request.header(CONTENT_TYPE, "application/octet-stream");
                body
            }
            None => whole(Bytes::new()),
        };
        request.body(body).map_err(|e| self.unintelligible(&e))
    }

    pub(crate) fn unintelligible(&self, cause: &dyn std::fmt::Display) -> Error {
        Error::Unintelligible { server: self.server().to_owned(), cause: cause.to_string() }
    }
}

/// The body of a request.
enum Content {
    Json(Bytes),
    Stream(Body),
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A request before it is one: path segments are escaped, the rest is what it seems.
pub(crate) struct Call<'a> {
    method: Method,
    path: Vec<&'a str>,
    query: Vec<(&'static str, String)>,
    body: Option<Content>,
    headers: Vec<(HeaderName, String)>,
    accept: &'static str,
    deadline: Option<Duration>,
}

impl<'a> Call<'a> {
    /// A call below `/api/v1/managed_agents`.
    pub fn managed(method: Method, path: &[&'a str]) -> Self {
        let mut whole = vec!["api", "v1", "managed_agents"];
        whole.extend(path);
        Self::root(method, whole)
    }

    /// A call anywhere on the server.
    pub fn root(method: Method, path: Vec<&'a str>) -> Self {
        let deadline = Some(ANSWER_DEADLINE);
        Self { method, path, query: vec![], body: None, headers: vec![], accept: "application/json", deadline }
    }

    pub fn query(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.query.extend(value.map(|value| (name, value.to_string())));
        self
    }

    pub fn body(mut self, body: &impl Serialize) -> Self {
        let json = serde_json::to_vec(body).expect("wire types serialise");
        self.body = Some(Content::Json(json.into()));
        self
    }

    /// A body that is sent as it comes.
    pub fn stream(mut self, content: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static) -> Self {
        let body = StreamBody::new(content.map(|piece| piece.map(Frame::data)));
        self.body = Some(Content::Stream(body.boxed_unsync()));
        self
    }

    pub fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((HeaderName::from_static(name), value.to_string()));
        self
    }

    pub fn accept(mut self, accept: &'static str) -> Self {
        self.accept = accept;
        self
    }

    /// Another deadline than [`ANSWER_DEADLINE`]; `None` waits for as long as the server does.
    pub fn deadline(mut self, deadline: Option<Duration>) -> Self {
        self.deadline = deadline;
        self
    }
}
