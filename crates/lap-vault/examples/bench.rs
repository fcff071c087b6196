//! What a request through the vault costs against the same request made directly, in the same process and run.
//!
//! `cargo run --profile fast --example bench -p lap-vault`. Client, vault and server share this machine's cores, so the
//! throughput rows show the sum of all three; the ratio is what to look at.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../tests/kit/mod.rs"]
mod kit;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kit::{Body, Kit, full, request};
use lap_domain::credential::Credential;
use tokio::net::{TcpListener, TcpStream};

const SECRET: &str = "GITHUB_TOKEN=ghp_0123456789abcdefghijklmnopqrstuv @ bench.test#body";
const WARM: usize = 500;
const SINGLE: usize = 8000;
const ROUNDS: usize = 3;
const LOAD_TIME: Duration = Duration::from_secs(2);
const BIG: usize = 64 << 20;

/// A TLS server that answers small, swallows and pours.
async fn server() -> (std::net::SocketAddr, String) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["bench.test".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                rustls::pki_types::PrivateKeyDer::Pkcs8(rustls::pki_types::PrivatePkcs8KeyDer::from(
                    key.serialize_der(),
                )),
            )
            .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                    let big = request.uri().path() == "/big";
                    let mut body = request.into_body();
                    while let Some(frame) = body.frame().await {
                        frame?;
                    }
                    let body: Body = if big { kit::full(vec![b'x'; BIG]) } else { full("{\"ok\":true}") };
                    Ok::<_, hyper::Error>(http::Response::new(body))
                });
                let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                if h2 {
                    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    builder.initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20);
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                } else {
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                }
            });
        }
    });
    (addr, ca.pem())
}

#[derive(Clone)]
struct Way {
    /// Direct, or through CONNECT.
    proxy: Option<std::net::SocketAddr>,
    server: std::net::SocketAddr,
    roots: String,
}

enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<Body>),
    Http2(hyper::client::conn::http2::SendRequest<Body>),
}

impl Sender {
    async fn send(&mut self, request: http::Request<Body>) -> usize {
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
            Self::Http2(sender) => sender.send_request(request).await.unwrap(),
        };
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        let mut n = 0;
        while let Some(frame) = body.frame().await {
            n += frame.unwrap().data_ref().map_or(0, bytes::Bytes::len);
        }
        n
    }
}

impl Way {
    fn config(&self, h2: bool) -> Arc<rustls::ClientConfig> {
        use rustls::pki_types::pem::PemObject as _;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(rustls::pki_types::CertificateDer::from_pem_slice(self.roots.as_bytes()).unwrap()).unwrap();
        let mut config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        config.alpn_protocols = vec![if h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        // Full handshakes, as from many short-lived programs.
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    }

    async fn open(&self, config: &Arc<rustls::ClientConfig>, h2: bool) -> Sender {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let stream = match self.proxy {
            None => TcpStream::connect(self.server).await.unwrap(),
            Some(proxy) => {
                let mut stream = TcpStream::connect(proxy).await.unwrap();
                stream.set_nodelay(true).unwrap();
                stream.write_all(b"CONNECT bench.test:443 HTTP/1.1\r\nHost: bench.test:443\r\n\r\n").await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
                stream
            }
        };
        stream.set_nodelay(true).unwrap();
        let name = rustls::pki_types::ServerName::try_from("bench.test").unwrap();
        let tls = tokio_rustls::TlsConnector::from(config.clone()).connect(name, stream).await.unwrap();
        if h2 {
            let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
            builder.initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20);
            let (sender, connection) = builder.handshake(TokioIo::new(tls)).await.unwrap();
            tokio::spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
            tokio::spawn(connection);
            Sender::Http1(sender)
        }
    }
}

fn small(stub: &str, h2: bool) -> http::Request<Body> {
    let auth = format!("Bearer {stub}");
    let uri = if h2 { "https://bench.test/v1/thing" } else { "/v1/thing" };
    let mut request = request("GET", uri, &[("authorization", &auth), ("user-agent", "bench"), ("accept", "*/*")], "");
    if !h2 {
        request.headers_mut().insert("host", "bench.test".parse().unwrap());
    }
    request
}

/// p50 and p99 of sequential requests on one warm connection, in µs.
async fn latency(way: &Way, stub: &str, h2: bool) -> (f64, f64) {
    let mut sender = way.open(&way.config(h2), h2).await;
    let mut times = Vec::with_capacity(SINGLE);
    for i in 0..WARM + SINGLE {
        let start = Instant::now();
        sender.send(small(stub, h2)).await;
        if i >= WARM {
            times.push(start.elapsed());
        }
    }
    times.sort_unstable();
    (times[SINGLE / 2].as_secs_f64() * 1e6, times[SINGLE * 99 / 100].as_secs_f64() * 1e6)
}

/// Processor time of this process so far, in µs: unlike the clock it does not care who else uses the machine.
fn cpu_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    let ticks: f64 = fields[11..13].iter().map(|f| f.parse::<f64>().unwrap()).sum();
    ticks * 1e4
}

/// Requests per second of 32 connections, each with one request at a time, and processor time per request in µs.
async fn load(way: &Way, stub: &str, h2: bool) -> (f64, f64) {
    let config = way.config(h2);
    let mut senders = Vec::new();
    for _ in 0..32 {
        senders.push(way.open(&config, h2).await);
    }
    let (start, cpu) = (Instant::now(), cpu_time());
    let mut tasks = tokio::task::JoinSet::new();
    for mut sender in senders {
        let stub = stub.to_owned();
        tasks.spawn(async move {
            let mut n = 0_u64;
            while start.elapsed() < LOAD_TIME {
                sender.send(small(&stub, h2)).await;
                n += 1;
            }
            n
        });
    }
    let total: u64 = tasks.join_all().await.into_iter().sum();
    (total as f64 / start.elapsed().as_secs_f64(), (cpu_time() - cpu) / total as f64)
}

/// New TLS connections per second, one request each, eight at a time.
async fn handshakes(way: &Way, stub: &str) -> f64 {
    let config = way.config(false);
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (way, config, stub) = (way.clone(), config.clone(), stub.to_owned());
        tasks.spawn(async move {
            let mut n = 0_u64;
            while start.elapsed() < LOAD_TIME {
                way.open(&config, false).await.send(small(&stub, false)).await;
                n += 1;
            }
            n
        });
    }
    let total: u64 = tasks.join_all().await.into_iter().sum();
    total as f64 / start.elapsed().as_secs_f64()
}

/// MB/s of one large body.
async fn bulk(way: &Way, stub: &str, h2: bool, up: bool) -> f64 {
    let mut sender = way.open(&way.config(h2), h2).await;
    let make = || {
        let mut request = small(stub, h2);
        if up {
            *request.method_mut() = http::Method::POST;
            *request.body_mut() = full(vec![b'x'; BIG]);
        } else {
            *request.uri_mut() = if h2 { "https://bench.test/big".parse().unwrap() } else { "/big".parse().unwrap() };
        }
        request
    };
    sender.send(make()).await;
    let start = Instant::now();
    for _ in 0..3 {
        sender.send(make()).await;
    }
    3.0 * BIG as f64 / 1e6 / start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main]
async fn main() {
    let (server, ca_pem) = server().await;
    let mut kit = Kit::with(&[SECRET], |g| {
        g.extra_ca_pem = Some(ca_pem.clone());
        g.resolve.push(lap_vault::ResolveOverride::parse(&format!("bench.test={server}")).unwrap());
    })
    .await;
    let Credential { stub, .. } = kit::credential(SECRET);
    let direct = Way { proxy: None, server, roots: ca_pem };
    let vault = Way { proxy: Some(kit.proxy), server, roots: kit.vault.ca_pem().to_owned() };
    let mut records = std::mem::replace(&mut kit.records, tokio::sync::mpsc::channel(1).1);
    tokio::spawn(async move { while records.recv().await.is_some() {} });
    // One load for a profiler to look at: `bench load` or `bench load2`.
    if let Some(which) = std::env::args().nth(1) {
        for _ in 0..5 {
            let (rate, cpu) = load(&vault, &stub, which == "load2").await;
            println!("{rate:.0} req/s, {cpu:.1} µs CPU each");
        }
        return;
    }
    println!("{:<44} {:>12} {:>12} {:>8}", "", "direct", "vault", "ratio");
    let row = |name: &str, unit: &str, direct: f64, vault: f64| {
        println!("{:<44} {direct:>12.1} {vault:>12.1} {:>7.2}x", format!("{name} ({unit})"), vault / direct);
    };
    for (name, h2) in [("HTTP/1.1", false), ("HTTP/2", true)] {
        let mut all: [Vec<f64>; 8] = Default::default();
        for _ in 0..ROUNDS {
            let (d, v) = (latency(&direct, &stub, h2).await, latency(&vault, &stub, h2).await);
            let (dl, vl) = (load(&direct, &stub, h2).await, load(&vault, &stub, h2).await);
            for (list, value) in all.iter_mut().zip([d.0, v.0, d.1, v.1, dl.0, vl.0, dl.1, vl.1]) {
                list.push(value);
            }
        }
        let [d50, v50, d99, v99, dl, vl, dc, vc] = all.map(median);
        row(&format!("{name}, one warm connection, p50"), "µs", d50, v50);
        row(&format!("{name}, one warm connection, p99"), "µs", d99, v99);
        println!("{:<44} {:>25.1}", format!("{name}, added p50 (µs)"), v50 - d50);
        row(&format!("{name}, 32 connections"), "req/s", dl, vl);
        row(&format!("{name}, 32 connections, CPU of all"), "µs/req", dc, vc);
        row(
            &format!("{name}, body up"),
            "MB/s",
            bulk(&direct, &stub, h2, true).await,
            bulk(&vault, &stub, h2, true).await,
        );
        row(
            &format!("{name}, body down"),
            "MB/s",
            bulk(&direct, &stub, h2, false).await,
            bulk(&vault, &stub, h2, false).await,
        );
    }
    row("new TLS connections", "conn/s", handshakes(&direct, &stub).await, handshakes(&vault, &stub).await);
}
