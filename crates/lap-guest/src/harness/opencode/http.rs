//! A small HTTP client for one server on the loopback interface.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Longest wait for an answer. The first message makes opencode load its providers, which took 1.7 s on an idle machine
/// and is bound by the processor.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// Longest answer that is read.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Why a request to opencode failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("it does not answer ({0})")]
    Connection(String),
    #[error("it gave no answer within {} s", ANSWER_DEADLINE.as_secs())]
    Deadline,
    #[error("it answered {0}: {1}")]
    Status(u16, String),
    #[error("its answer is not JSON")]
    Malformed(#[source] serde_json::Error),
}

/// Where opencode listens and what proves us to it.
#[derive(Clone)]
pub(super) struct Api {
    address: SocketAddr,
    password: String,
    authorization: String,
}

impl Api {
    pub(super) fn new(address: SocketAddr, password: &str) -> Self {
        let authorization = format!("Basic {}", STANDARD.encode(format!("opencode:{password}")));
        Self { address, password: password.to_owned(), authorization }
    }

    /// Where it listens.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What proves us to it, for another program of ours.
    pub(super) fn password(&self) -> &str {
        &self.password
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, ApiError> {
        let body = serde_json::to_vec(body).map_err(ApiError::Malformed)?;
        self.call(Method::POST, path, body.into()).await
    }

    /// The event stream's body.
    pub(super) async fn events(&self) -> Result<Incoming, ApiError> {
        let answer = tokio::time::timeout(ANSWER_DEADLINE, self.send(Method::GET, "/event", Bytes::new()));
        let answer = answer.await.map_err(|_| ApiError::Deadline)??;
        match answer.status().as_u16() {
            200 => Ok(answer.into_body()),
            status => Err(ApiError::Status(status, "no event stream".to_owned())),
        }
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Value, ApiError> {
        tokio::time::timeout(ANSWER_DEADLINE, async {
            let answer = self.send(method, path, body).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
                Some(_) => ApiError::Connection("the answer is too long".to_owned()),
                None => ApiError::Connection(error.to_string()),
            })?;
            let body = body.to_bytes();
            if !status.is_success() {
                let text = String::from_utf8_lossy(&body);
                return Err(ApiError::Status(status.as_u16(), crate::clip::head(text.trim(), 300)));
            }
            if body.is_empty() {
                return Ok(Value::Null);
            }
            serde_json::from_slice(&body).map_err(ApiError::Malformed)
        })
        .await
        .map_err(|_| ApiError::Deadline)?
    }

    /// One connection for one request: there are few, and a crash leaves nothing half-used behind.
    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ApiError> {
        let broken = |error: &dyn std::fmt::Display| ApiError::Connection(error.to_string());
        let stream = TcpStream::connect(self.address).await.map_err(|error| broken(&error))?;
        stream.set_nodelay(true).map_err(|error| broken(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        // Ends by itself when the answer's body is dropped or read.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("authorization", &self.authorization)
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| broken(&error))?;
        sender.send_request(request).await.map_err(|error| broken(&error))
    }
}
