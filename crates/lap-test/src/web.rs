//! The HTTP server under every fixture, and a client to look at one. Everything stops when its owner is dropped.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Body of an answer, whole or streamed.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A listener and its connections. Dropping it ends them all.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves HTTP/1.1 and HTTP/2 on a free port of 127.0.0.1, over TLS when `tls` is given.
pub async fn serve<H, F>(tls: Option<Arc<ServerConfig>>, handler: H) -> std::io::Result<Running>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let acceptor = tls.map(tokio_rustls::TlsAcceptor::from);
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            while connections.try_join_next().is_some() {}
            // Small answers must not wait for the peer's acknowledgement.
            let _ = stream.set_nodelay(true);
            let (acceptor, handler) = (acceptor.clone(), handler.clone());
            connections.spawn(async move {
                match acceptor {
                    None => connection(stream, handler).await,
                    // A failed handshake is the client's to report.
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            connection(stream, handler).await;
                        }
                    }
                }
            });
        }
    });
    Ok(Running { address, task })
}

async fn connection<S, H, F>(stream: S, handler: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = hyper::service::service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!("connection of a fixture ended: {error}");
    }
}

/// An answer with this text.
pub fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer with this JSON.
pub fn json(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    text(status, "application/json", body.to_string())
}

/// A body that is all there.
pub fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed_unsync()
}

/// Reads a request to its end; a broken one counts as empty from there on.
pub async fn whole(body: Incoming) -> Bytes {
    body.collect().await.map(|collected| collected.to_bytes()).unwrap_or_default()
}

/// Why a request of [`fetch`] got no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The connection or the handshake failed.
    #[error("could not connect to {authority}")]
    Connect {
        authority: String,
        #[source]
        cause: std::io::Error,
    },
    /// The server broke off.
    #[error("no whole answer from {authority}")]
    Http {
        authority: String,
        #[source]
        cause: hyper::Error,
    },
}

/// Sends one request on a connection of its own and reads the whole answer. The URI must be absolute; for `https` the
/// protocol is what the handshake agreed on, so `alpn` of `tls` chooses it.
pub async fn fetch(tls: Option<Arc<ClientConfig>>, request: Request<Bytes>) -> Result<Response<Bytes>, FetchError> {
    let (response, _connection) = fetch_streaming(tls, request).await?;
    let authority = String::from("the server");
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|cause| FetchError::Http { authority, cause })?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

/// As [`fetch`], but hands out the body while it comes. The guard ends the connection when dropped.
pub async fn fetch_streaming(
    tls: Option<Arc<ClientConfig>>,
    request: Request<Bytes>,
) -> Result<(Response<Incoming>, Connection), FetchError> {
    let host = request.uri().host().unwrap_or("127.0.0.1").to_owned();
    let https = request.uri().scheme_str() == Some("https");
    let port = request.uri().port_u16().unwrap_or(if https { 443 } else { 80 });
    let authority = format!("{host}:{port}");
    let failed = |cause| FetchError::Connect { authority: authority.clone(), cause };
    // Names of fixtures exist in no resolver: whatever the name, the fixture is on this machine.
    let address =
        if host.parse::<std::net::IpAddr>().is_ok() { authority.clone() } else { format!("127.0.0.1:{port}") };
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    let _ = stream.set_nodelay(true);
    let failed = |cause| FetchError::Connect { authority: authority.clone(), cause };
    match tls.filter(|_| https) {
        None => exchange(stream, false, request, authority).await,
        Some(config) => {
            let name = rustls::pki_types::ServerName::try_from(host).map_err(std::io::Error::other).map_err(failed)?;
            let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await;
            let failed = |cause| FetchError::Connect { authority: authority.clone(), cause };
            let stream = stream.map_err(failed)?;
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            exchange(stream, http2, request, authority).await
        }
    }
}

/// Keeps the connection of a [`fetch_streaming`] going.
pub struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn exchange<S>(
    stream: S,
    http2: bool,
    mut request: Request<Bytes>,
    authority: String,
) -> Result<(Response<Incoming>, Connection), FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |cause| FetchError::Http { authority: authority.clone(), cause };
    let io = TokioIo::new(stream);
    if http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.map_err(failed)?;
        let connection = Connection(tokio::spawn(async move { drop(connection.await) }));
        let response = sender.send_request(request.map(Full::new)).await.map_err(failed)?;
        Ok((response, connection))
    } else {
        let host = request.uri().authority().map(|authority| authority.to_string()).unwrap_or_default();
        if !request.headers().contains_key(header::HOST) {
            request.headers_mut().insert(header::HOST, HeaderValue::from_str(&host).expect("an authority is a header"));
        }
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        *request.uri_mut() = path.parse().expect("a path is a URI");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(failed)?;
        let connection = Connection(tokio::spawn(async move { drop(connection.await) }));
        let response = sender.send_request(request.map(Full::new)).await.map_err(failed)?;
        Ok((response, connection))
    }
}
