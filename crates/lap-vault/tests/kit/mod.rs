//! A vault between a client and an upstream, all in this process. The sandbox's side lives on loopback addresses of its own,
//! so that connections reach the vault the way redirected ones do.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lap_domain::credential::{Credential, HostRule, Scope};
use lap_domain::egress::Policy;
use lap_domain::secret::Secret;
use lap_domain::stub;
use lap_vault::{Gateway, Grants, InsideNet, Record, ResolveOverride, Vault, VaultConfig};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

/// What the upstream saw.
#[derive(Debug, Clone)]
pub struct Seen {
    pub line: String,
    pub headers: http::HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<http::HeaderMap>,
    pub version: http::Version,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

/// Marks an answer that does not come.
#[derive(Clone)]
pub struct Never;

#[derive(Clone)]
pub struct Upstream {
    pub tls: SocketAddr,
    pub plain: SocketAddr,
    pub ca_pem: String,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    pub connections: Arc<std::sync::atomic::AtomicUsize>,
    /// Lines for `/sse`.
    pub sse: Arc<tokio::sync::Mutex<mpsc::Receiver<String>>>,
    pub sse_feed: mpsc::Sender<String>,
    /// The server's end of every WebSocket, after its handshake.
    pub websockets: Arc<tokio::sync::Mutex<mpsc::Receiver<Websocket>>>,
    websockets_in: mpsc::Sender<Websocket>,
    /// What the gateway answers to model calls, one after the other; without one it echoes.
    pub replies: Arc<Mutex<std::collections::VecDeque<Response<Body>>>>,
}

pub type Websocket = TokioIo<hyper::upgrade::Upgraded>;

pub const NAMES: [&str; 4] = ["api.test", "other.test", "evil.test", "gw.test"];

pub async fn upstream() -> Upstream {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let mut names: Vec<String> = NAMES.iter().map(|n| (*n).to_owned()).collect();
    names.push("127.0.0.1".to_owned());
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let tls = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (sse_feed, sse) = mpsc::channel(16);
    let (websockets_in, websockets) = mpsc::channel(4);
    let upstream = Upstream {
        tls: tls.local_addr().unwrap(),
        plain: plain.local_addr().unwrap(),
        ca_pem: ca.pem(),
        seen: Arc::default(),
        connections: Arc::default(),
        sse: Arc::new(tokio::sync::Mutex::new(sse)),
        sse_feed,
        websockets: Arc::new(tokio::sync::Mutex::new(websockets)),
        websockets_in,
        replies: Arc::default(),
    };
    let state = upstream.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = tls.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            state.connections.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let (acceptor, state) = (acceptor.clone(), state.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(TokioIo::new(stream), state).await;
                }
            });
        }
    });
    let state = upstream.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = plain.accept().await.unwrap();
            state.connections.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let state = state.clone();
            tokio::spawn(async move { serve(TokioIo::new(stream), state).await });
        }
    });
    upstream
}

async fn serve<S>(io: TokioIo<S>, state: Upstream)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(request, state).await) }
    });
    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(io, service)
        .await;
}

async fn answer(mut request: Request<Incoming>, state: Upstream) -> Response<Body> {
    let line = format!("{} {}", request.method(), request.uri().path_and_query().unwrap());
    let path = request.uri().path().to_owned();
    let upgrade = request.headers().contains_key("upgrade").then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let collected = match body.collect().await {
        Ok(collected) => collected,
        Err(_) => return Response::new(full("broken body")),
    };
    let trailers = collected.trailers().cloned();
    let body = collected.to_bytes().to_vec();
    let seen = Seen {
        line: line.clone(),
        headers: parts.headers.clone(),
        body: body.clone(),
        trailers,
        version: parts.version,
    };
    state.seen.lock().unwrap().push(seen);
    let mut text = format!("{line}\n");
    for (name, value) in &parts.headers {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    text.push('\n');
    let mut echo = text.into_bytes();
    echo.extend_from_slice(&body);
    let auth = parts.headers.get("authorization").cloned().unwrap_or_else(|| http::HeaderValue::from_static(""));
    let reply = if path.starts_with("/base/") { state.replies.lock().unwrap().pop_front() } else { None };
    if let Some(reply) = reply {
        if reply.extensions().get::<Never>().is_some() {
            std::future::pending::<()>().await;
        }
        return reply;
    }
    match path.as_str() {
        "/coded" => {
            let coding = parts.uri.query().unwrap_or("gzip").to_owned();
            let packed = match coding.as_str() {
                "gzip" => pack(GzipEncoder::new(Vec::new()), &echo).await,
                "br" => pack(BrotliEncoder::new(Vec::new()), &echo).await,
                "zstd" => pack(ZstdEncoder::new(Vec::new()), &echo).await,
                "deflate" => pack(ZlibEncoder::new(Vec::new()), &echo).await,
                _ => echo,
            };
            Response::builder().header("content-encoding", coding).body(full(packed)).unwrap()
        }
        "/named" => {
            let name = format!("x-{}", auth.to_str().unwrap().to_lowercase());
            Response::builder().header(name, "1").body(full("")).unwrap()
        }
        "/reason" => {
            let mut response = Response::new(full(""));
            let reason = hyper::ext::ReasonPhrase::try_from(auth.as_bytes().to_vec()).unwrap();
            response.extensions_mut().insert(reason);
            response
        }
        "/header" => Response::builder().header("x-echo", auth).body(full("")).unwrap(),
        "/base64" => {
            use base64::Engine as _;
            let text = format!("user:{}", auth.to_str().unwrap());
            Response::new(full(base64::engine::general_purpose::STANDARD.encode(text)))
        }
        "/split" => {
            // The value comes back one byte per frame.
            let pieces: Vec<_> =
                auth.as_bytes().iter().map(|b| Ok(Frame::data(Bytes::copy_from_slice(&[*b])))).collect();
            Response::new(StreamBody::new(futures_util::stream::iter(pieces)).boxed())
        }
        "/trailers" => {
            let frames = vec![
                Ok(Frame::data(Bytes::from_static(b"body"))),
                Ok(Frame::trailers(http::HeaderMap::from_iter([(http::HeaderName::from_static("x-tail"), auth)]))),
            ];
            Response::builder()
                .header("trailer", "x-tail")
                .body(StreamBody::new(futures_util::stream::iter(frames)).boxed())
                .unwrap()
        }
        "/sse" => {
            let lines = state.sse.clone();
            let stream = futures_util::stream::unfold(lines, |lines| async move {
                let line = lines.lock().await.recv().await?;
                Some((Ok(Frame::data(Bytes::from(line))), lines))
            });
            Response::builder()
                .header("content-type", "text/event-stream")
                .body(StreamBody::new(stream).boxed())
                .unwrap()
        }
        "/never" => std::future::pending().await,
        "/empty" => Response::builder().status(StatusCode::NO_CONTENT).body(full("")).unwrap(),
        "/big" => Response::new(full(vec![b'x'; 3 << 20])),
        "/close" => Response::builder().header("connection", "close").body(full(echo)).unwrap(),
        "/ws" => {
            let Some(upgrade) = upgrade else {
                return Response::builder().status(426).body(full("no upgrade")).unwrap();
            };
            let websockets = state.websockets_in.clone();
            tokio::spawn(async move {
                let _ = websockets.send(TokioIo::new(upgrade.await.unwrap())).await;
            });
            Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header("upgrade", "websocket")
                .header("connection", "upgrade")
                .body(full(""))
                .unwrap()
        }
        _ => Response::new(full(echo)),
    }
}

pub async fn pack<W>(mut encoder: W, bytes: &[u8]) -> Vec<u8>
where
    W: tokio::io::AsyncWrite + Unpin + Inner,
{
    encoder.write_all(bytes).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.inner()
}

pub trait Inner {
    fn inner(self) -> Vec<u8>;
}
macro_rules! inner { ($($t:ident),*) => { $(impl Inner for $t<Vec<u8>> { fn inner(self) -> Vec<u8> { self.into_inner() } })* } }
inner!(GzipEncoder, BrotliEncoder, ZlibEncoder, ZstdEncoder);

pub struct Kit {
    pub vault: Arc<Vault>,
    pub upstream: Upstream,
    pub proxy: SocketAddr,
    pub dns: SocketAddr,
    pub stubs: HashMap<String, String>,
    pub records: mpsc::Receiver<Record>,
    pub stop: CancellationToken,
    grants: Grants,
    served: tokio::task::JoinHandle<()>,
}

/// `NAME=secret @ scope scope…`; a scope is a host rule, `gateway` or `anywhere`.
pub fn credential(text: &str) -> Credential {
    let (pair, scope) = text.split_once(" @ ").unwrap();
    let (name, secret) = pair.split_once('=').unwrap();
    let scope = match scope {
        "gateway" => Scope::Gateway,
        "anywhere" => Scope::Anywhere,
        rules => Scope::Hosts(rules.split(' ').map(|rule| HostRule::parse(rule).unwrap()).collect()),
    };
    let random: Vec<u8> = (0..stub::random_needed(secret.len())).map(|i| (i * 37 + name.len() * 91) as u8).collect();
    let stub = stub::mint(name, secret.len(), &random);
    Credential { name: name.to_owned(), stub, secret: Secret::new(secret.to_owned()), scope }
}

impl Kit {
    pub async fn new(credentials: &[&str]) -> Self {
        Self::with(credentials, |_| {}).await
    }

    pub async fn with(credentials: &[&str], change: impl FnOnce(&mut Grants)) -> Self {
        Self::with_config(|_| {}, credentials, change).await
    }

    pub async fn with_config(
        config: impl FnOnce(&mut VaultConfig),
        credentials: &[&str],
        change: impl FnOnce(&mut Grants),
    ) -> Self {
        let upstream = upstream().await;
        let inside = InsideNet { base: Ipv4Addr::new(127, 77, 0, 0), bits: 16 };
        let listener = std::net::TcpListener::bind("127.77.0.1:0").unwrap();
        let proxy = listener.local_addr().unwrap();
        let mut listeners = vec![listener];
        for last in 16..20 {
            listeners.push(std::net::TcpListener::bind((Ipv4Addr::new(127, 77, 0, last), proxy.port())).unwrap());
        }
        listeners.push(std::net::TcpListener::bind((Ipv4Addr::new(127, 76, 0, 1), proxy.port())).unwrap());
        let dns_socket = UdpSocket::bind("127.77.0.1:0").unwrap();
        let dns = dns_socket.local_addr().unwrap();
        let (tx, records) = mpsc::channel(256);
        let mut vault_config =
            VaultConfig { inside, proxy_port: proxy.port(), max_connections: 512, ..VaultConfig::default() };
        config(&mut vault_config);
        let vault = Vault::new(vault_config, tx).unwrap();
        let credentials: Vec<Credential> = credentials.iter().map(|text| credential(text)).collect();
        let stubs = credentials.iter().map(|c| (c.name.clone(), c.stub.clone())).collect();
        let resolve = NAMES.iter().map(|name| ResolveOverride::parse(&format!("{name}={}", upstream.tls)).unwrap());
        let plain = ResolveOverride::parse(&format!("plain.test={}", upstream.plain)).unwrap();
        let mut grants = Grants {
            credentials,
            policy: Policy::parse(&[], &[], &[], &["127.0.0.0/8".to_owned()]).unwrap(),
            resolve: resolve.chain([plain]).collect(),
            gateway: Some(Gateway::parse("https://gw.test/base").unwrap()),
            extra_ca_pem: Some(upstream.ca_pem.clone()),
            passthrough: Vec::new(),
            outbound: None,
        };
        change(&mut grants);
        vault.set_grants(grants.clone()).unwrap();
        let stop = CancellationToken::new();
        let served = {
            let (vault, stop) = (vault.clone(), stop.clone());
            tokio::spawn(async move { vault.serve(listeners, dns_socket, stop).await.unwrap() })
        };
        Self { vault, upstream, proxy, dns, stubs, records, stop, grants, served }
    }

    pub fn stub(&self, name: &str) -> &str {
        &self.stubs[name]
    }

    pub fn regrant(&self, change: impl FnOnce(&mut Grants)) {
        let mut grants = self.grants.clone();
        change(&mut grants);
        self.vault.set_grants(grants).unwrap();
    }

    /// Takes the next record.
    pub async fn record(&mut self) -> Record {
        self.records.recv().await.unwrap()
    }

    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.upstream.seen.lock().unwrap())
    }

    pub async fn shutdown(self) {
        self.stop.cancel();
        self.served.await.unwrap();
    }

    /// A raw connection to `target` (`host:port`) through CONNECT; the answer's head when it is no 200.
    pub async fn connect(&self, target: &str) -> Result<TcpStream, String> {
        let mut stream = TcpStream::connect(self.proxy).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        if head.starts_with("HTTP/1.1 200") { Ok(stream) } else { Err(head) }
    }

    /// TLS inside, as a client that trusts the sandbox's authority.
    pub async fn tls(
        &self,
        stream: TcpStream,
        name: &str,
        alpn: &[&str],
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.vault.ca_pem().as_bytes()).unwrap()).unwrap();
        let mut config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned()).unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// An HTTP/1.1 connection to `https://host`.
    pub async fn http1(&self, host: &str) -> hyper::client::conn::http1::SendRequest<Body> {
        let stream = self.connect(&format!("{host}:443")).await.unwrap();
        let tls = self.tls(stream, host, &["http/1.1"]).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }

    /// An HTTP/2 connection to `https://host`.
    pub async fn http2(&self, host: &str) -> hyper::client::conn::http2::SendRequest<Body> {
        let stream = self.connect(&format!("{host}:443")).await.unwrap();
        let tls = self.tls(stream, host, &["h2"]).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// One request over HTTPS and HTTP/1.1.
    pub async fn send(&self, host: &str, request: Request<Body>) -> Response<Incoming> {
        let mut request = request;
        if !request.headers().contains_key("host") {
            request.headers_mut().insert("host", host.parse().unwrap());
        }
        self.http1(host).await.send_request(request).await.unwrap()
    }

    /// A GET with headers.
    pub async fn get(&self, host: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        reply(self.send(host, request("GET", path, headers, "")).await).await
    }

    /// A POST with headers and a body.
    pub async fn post(&self, host: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        reply(self.send(host, request("POST", path, headers, body)).await).await
    }
}

pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Request<Body> {
    let mut builder = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(full(body)).unwrap()
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: String,
    pub trailers: Option<http::HeaderMap>,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub fn blocked(&self) -> (u16, &str) {
        (self.status, self.header("x-lap-blocked"))
    }
}

pub async fn reply(response: Response<Incoming>) -> Reply {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    let body = String::from_utf8_lossy(&collected.to_bytes()).into_owned();
    Reply { status: parts.status.as_u16(), headers: parts.headers, body, trailers }
}
