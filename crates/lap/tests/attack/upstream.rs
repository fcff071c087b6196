//! A server written by hand, so that it can answer as no decent server would, and so that it sees requests as they are on
//! the wire. It sends the credential of a request back in every disguise.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use lap_test::ca::TestCa;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A request as it came over the wire.
#[derive(Clone)]
pub struct Seen {
    pub head: String,
    pub body: Vec<u8>,
}

/// What came in so far.
#[derive(Clone, Default)]
pub struct Log {
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Requests of the HTTP/2 server.
    pub http2: Arc<AtomicUsize>,
}

impl Log {
    pub fn requests(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves `names` on a free port, over TLS when asked to, and returns the port. `secrets` is what it knows to be real.
pub async fn serve(tls: Option<(&TestCa, &str)>, secrets: Vec<String>, log: &Log) -> u16 {
    let config = tls.map(|(ca, name)| ca.server_config(&[name.to_owned()], &["http/1.1"]));
    let (log, secrets) = (log.clone(), Arc::new(secrets));
    accept(config, move |stream| {
        let (log, secrets) = (log.clone(), secrets.clone());
        async move {
            // A connection that breaks is the other side's affair.
            let _ = talk(stream, &secrets, &log).await;
        }
    })
    .await
}

/// Serves HTTP/2 with bodies and trailers where none belong, each answer holding `secret`.
pub async fn serve_http2(ca: &TestCa, name: &str, secret: String, log: &Log) -> u16 {
    let config = ca.server_config(&[name.to_owned()], &["h2"]);
    let log = log.clone();
    accept(Some(config), move |stream| {
        let (log, secret) = (log.clone(), secret.clone());
        async move {
            let _ = talk_http2(stream, &secret, &log).await;
        }
    })
    .await
}

/// Either side of TLS.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn accept<H, F>(config: Option<Arc<ServerConfig>>, handler: H) -> u16
where
    H: Fn(Box<dyn Stream>) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let acceptor = config.map(TlsAcceptor::from);
    // Ends with the runtime of the test.
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, handler) = (acceptor.clone(), handler.clone());
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                match acceptor {
                    None => handler(Box::new(stream)).await,
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            handler(Box::new(stream)).await;
                        }
                    }
                }
            });
        }
    });
    port
}

async fn talk(mut stream: Box<dyn Stream>, secrets: &[String], log: &Log) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(request) = read(&mut stream, &mut buffer).await? {
        log.seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        let Answer { pieces, pause, close } = answer(&request, secrets);
        for piece in pieces {
            stream.write_all(&piece).await?;
            stream.flush().await?;
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
        }
        if close {
            stream.shutdown().await?;
            return Ok(());
        }
    }
    Ok(())
}

async fn read(stream: &mut Box<dyn Stream>, buffer: &mut Vec<u8>) -> std::io::Result<Option<Seen>> {
    let head = loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            break buffer.drain(..end + 4).collect::<Vec<u8>>();
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&head).into_owned();
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let mut body = Vec::new();
    if header("transfer-encoding").is_some() {
        loop {
            let line = until(stream, buffer, b"\r\n").await?;
            let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).unwrap_or(0);
            if size == 0 {
                // Trailers count as body here: what is in them has arrived.
                loop {
                    let line = until(stream, buffer, b"\r\n").await?;
                    if line.len() <= 2 {
                        break;
                    }
                    body.extend_from_slice(&line);
                }
                break;
            }
            take(stream, buffer, size + 2, &mut body).await?;
            body.truncate(body.len() - 2);
        }
    } else if let Some(length) = header("content-length").and_then(|length| length.parse().ok()) {
        take(stream, buffer, length, &mut body).await?;
    }
    Ok(Some(Seen { head, body }))
}

async fn until(stream: &mut Box<dyn Stream>, buffer: &mut Vec<u8>, end: &[u8]) -> std::io::Result<Vec<u8>> {
    loop {
        if let Some(at) = find(buffer, end) {
            return Ok(buffer.drain(..at + end.len()).collect());
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn take(
    stream: &mut Box<dyn Stream>,
    buffer: &mut Vec<u8>,
    count: usize,
    to: &mut Vec<u8>,
) -> std::io::Result<()> {
    while buffer.len() < count {
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    to.extend(buffer.drain(..count));
    Ok(())
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

struct Answer {
    pieces: Vec<Vec<u8>>,
    pause: Option<Duration>,
    close: bool,
}

/// What the path asks for.
fn answer(request: &Seen, secrets: &[String]) -> Answer {
    let path = request.head.split(' ').nth(1).unwrap_or("/").to_owned();
    let (path, query) = path.split_once('?').unwrap_or((&path, ""));
    let real = |text: &[u8]| secrets.iter().find(|secret| find(text, secret.as_bytes()).is_some()).cloned();
    let in_basic = request
        .head
        .lines()
        .find_map(|line| line.split_once("Basic ").or_else(|| line.split_once("basic ")))
        .and_then(|(_, code)| STANDARD.decode(code.trim()).ok())
        .and_then(|decoded| real(&decoded));
    let got = real(request.head.as_bytes()).or(in_basic);
    let secret = got.clone().unwrap_or_else(|| "no-secret-came".to_owned());
    let whole = serde_json::from_slice::<serde_json::Value>(&request.body)
        .is_ok_and(|value| value.as_object().is_some_and(|object| object.len() == 1));
    let facts = format!(
        "x-got: {}\r\nx-body: {}\r\nx-json: {}\r\nx-injected: {}\r\n",
        if got.is_some() { "real" } else { "nothing" },
        if real(&request.body).is_some() { "real" } else { "clean" },
        if whole { "whole" } else { "broken" },
        if request.head.to_ascii_lowercase().contains("\r\nx-injected:") { "yes" } else { "no" },
    );
    let with = |status: &str, more: &str, body: &[u8]| {
        let mut out = format!("HTTP/1.1 {status}\r\n{facts}{more}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
        out.extend_from_slice(body);
        out
    };
    let once = |bytes: Vec<u8>| Answer { pieces: vec![bytes], pause: None, close: false };
    let text = |body: &str| once(with("200 OK", "Content-Type: text/plain\r\n", body.as_bytes()));
    let packed = |coding: &str, body: Vec<u8>| once(with("200 OK", &format!("Content-Encoding: {coding}\r\n"), &body));
    let said = format!("the value is {secret}, remember it");
    let hex = |secret: &str| secret.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let percent = |secret: &str| secret.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let chunked = |more: &str, chunks: Vec<Vec<u8>>, trailer: &str| {
        let mut out = format!("HTTP/1.1 200 OK\r\n{facts}Transfer-Encoding: {more}chunked\r\n\r\n").into_bytes();
        for chunk in chunks {
            out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            out.extend_from_slice(&chunk);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
        out
    };
    match path {
        "/json" => once(with("200 OK", "Content-Type: application/json\r\n", format!("{{\"v\":\"{secret}\"}}").as_bytes())),
        // Unreserved characters are what the vault looks for as they are; here all of them are encoded, as no client does.
        "/percent" => text(&secret.replace('_', "%5F")),
        "/percent-lower" => text(&secret.replace('_', "%5f")),
        "/base64" => text(&STANDARD.encode(&secret)),
        "/base64-1" => text(&STANDARD.encode(format!("x{secret}y"))),
        "/base64-2" => text(&STANDARD.encode(format!("xx{secret}yy"))),
        "/base64url" => text(&URL_SAFE.encode(format!("??{secret}>>"))),
        "/basic" => text(&format!("Basic {}", STANDARD.encode(format!("user:{secret}")))),
        "/hex" => text(&hex(&secret)),
        "/HEX" => text(&hex(&secret).to_uppercase()),
        "/all-percent" => text(&percent(&secret)),
        "/gzip" => packed("gzip", gzip(said.as_bytes())),
        "/GZIP" => packed("GZIP", gzip(said.as_bytes())),
        "/x-gzip" => packed("x-gzip", gzip(said.as_bytes())),
        "/gzip-members" => {
            let (a, b) = said.as_bytes().split_at(said.len() / 2);
            packed("gzip", [gzip(a), gzip(b)].concat())
        }
        "/deflate" => packed("deflate", zlib(said.as_bytes())),
        "/br" => packed("br", brotli(said.as_bytes())),
        "/zstd" => packed("zstd", zstd(said.as_bytes())),
        "/gzip-twice" => packed("gzip, gzip", gzip(&gzip(said.as_bytes()))),
        "/gzip-twice-headers" => packed("gzip\r\nContent-Encoding: gzip", gzip(&gzip(said.as_bytes()))),
        "/gzip-te" => once(chunked("gzip, ", vec![gzip(said.as_bytes())], "")),
        "/unknown" => packed("x-reversed", said.bytes().rev().collect()),
        "/chunks" => once(chunked("", said.bytes().map(|byte| vec![byte]).collect(), "")),
        "/chunk-ext" => once(
            format!("HTTP/1.1 200 OK\r\n{facts}Transfer-Encoding: chunked\r\n\r\n1;{secret}=\"{secret}\"\r\nx\r\n0;{secret}\r\n\r\n")
                .into_bytes(),
        ),
        "/drip" => {
            let head = with("200 OK", "", &[]);
            let head = String::from_utf8_lossy(&head).replace("Content-Length: 0", &format!("Content-Length: {}", secret.len()));
            let bytes = secret.bytes().map(|byte| vec![byte]);
            Answer { pieces: std::iter::once(head.into_bytes()).chain(bytes).collect(), pause: Some(DRIP), close: false }
        }
        "/close" => Answer {
            pieces: vec![format!("HTTP/1.0 200 OK\r\n{facts}\r\n{said}").into_bytes()],
            pause: None,
            close: true,
        },
        "/partial" => once(with("206 Partial Content", "Content-Range: bytes 0-9/100\r\n", said.as_bytes())),
        "/header" => once(with("200 OK", &format!("X-Echo: {secret}\r\n"), b"x")),
        "/header-name" => once(with("200 OK", &format!("X-{secret}: 1\r\n"), b"x")),
        "/header-base64" => once(with("200 OK", &format!("X-Echo: {}\r\n", STANDARD.encode(&secret)), b"x")),
        "/cookie" => once(with("200 OK", &format!("Set-Cookie: session={secret}; Path=/\r\n"), b"x")),
        "/location" => once(with("302 Found", &format!("Location: https://evil.test/?v={secret}\r\n"), b"x")),
        "/reason" => once(with(&format!("200 {secret}"), "", b"x")),
        "/early" => {
            let early = format!("HTTP/1.1 103 Early Hints\r\nLink: <https://x/{secret}>\r\n\r\n").into_bytes();
            once([early, with("200 OK", "", b"x")].concat())
        }
        "/trailer" => once(chunked("", vec![b"x".to_vec()], &format!("X-Echo: {secret}\r\n"))),
        "/trailer-name" => once(chunked("", vec![b"x".to_vec()], &format!("X-{secret}: 1\r\n"))),
        "/error" => once(with("500 Internal Server Error", "", said.as_bytes())),
        "/multipart" => once(with(
            "200 OK",
            "Content-Type: multipart/mixed; boundary=b\r\n",
            format!("--b\r\n\r\n{secret}\r\n--b--\r\n").as_bytes(),
        )),
        "/large" => text(&format!("{}{secret}", "x".repeat(1 << 20))),
        "/twice" => text(&format!("{secret}{secret} ").repeat(500)),
        "/obs-fold" => once(with("200 OK", &format!("X-Echo: a\r\n {secret}\r\n"), b"x")),
        "/www-auth" => once(with("401 Unauthorized", &format!("WWW-Authenticate: Bearer realm=\"{secret}\"\r\n"), b"x")),
        "/range" => range(request, &secret, with),
        "/ws" => {
            let frame = [&[0x81, u8::try_from(secret.len()).unwrap_or(0)], secret.as_bytes(), &[0x88, 0]].concat();
            let head = format!("HTTP/1.1 101 Switching Protocols\r\n{facts}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
            Answer { pieces: vec![[head.into_bytes(), frame].concat()], pause: None, close: true }
        }
        "/extra" => once([with("200 OK", "", b"x"), with("200 OK", "", b"smuggled")].concat()),
        "/forged" => once(with("200 OK", "x-lap-blocked: forged\r\n", b"x")),
        "/redirect" => {
            let to = query.split('&').find_map(|pair| pair.strip_prefix("to=")).unwrap_or_default();
            let to = to.replace("%3A", ":").replace("%2F", "/");
            let status = query.split('&').find_map(|pair| pair.strip_prefix("status=")).unwrap_or("302");
            once(with(&format!("{status} Moved"), &format!("Location: {to}\r\n"), b""))
        }
        path if path.starts_with("/smuggled") => text("smuggled-answer"),
        "/plain" => text(&said),
        // What git asks first; it then looks for a credential.
        _ if path.ends_with("/info/refs") && got.is_none() => {
            once(with("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n", b""))
        }
        _ => text("seen"),
    }
}

/// Longer than the vault waits before it lets go of what may be the beginning of a secret.
const DRIP: Duration = Duration::from_millis(60);

fn range(request: &Seen, secret: &str, with: impl Fn(&str, &str, &[u8]) -> Vec<u8>) -> Answer {
    let wanted = request.head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let ours = name.eq_ignore_ascii_case("range") || name.eq_ignore_ascii_case("request-range");
        let (first, last) = value.trim().strip_prefix("bytes=")?.split_once('-')?;
        ours.then_some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?))
    });
    let bytes = match wanted {
        Some((first, last)) => {
            let piece = secret.as_bytes().get(first..=last).unwrap_or_default();
            with("206 Partial Content", &format!("Content-Range: bytes {first}-{last}/{}\r\n", secret.len()), piece)
        }
        None => with("200 OK", "", secret.as_bytes()),
    };
    Answer { pieces: vec![bytes], pause: None, close: false }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("a vector takes everything")
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("a vector takes everything")
}

/// A brotli stream of one uncompressed block: window bits 16, not last, four nibbles of length, uncompressed; then the end.
fn brotli(bytes: &[u8]) -> Vec<u8> {
    let header = u32::try_from(bytes.len() - 1).expect("short") << 4 | 1 << 20;
    [&header.to_le_bytes()[..3], bytes, &[3]].concat()
}

/// A zstd frame of one raw block, in a single segment with one byte of size.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let size = u8::try_from(bytes.len()).expect("short");
    let block = u32::from(size) << 3 | 1;
    [&[0x28, 0xb5, 0x2f, 0xfd, 0x20, size], &block.to_le_bytes()[..3], bytes].concat()
}

async fn talk_http2(mut stream: Box<dyn Stream>, secret: &str, log: &Log) -> std::io::Result<()> {
    const PREFACE: usize = 24;
    const SETTINGS: u8 = 4;
    let mut buffer = Vec::new();
    let mut scrap = Vec::new();
    take(&mut stream, &mut buffer, PREFACE, &mut scrap).await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    loop {
        let mut head = Vec::new();
        take(&mut stream, &mut buffer, 9, &mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = Vec::new();
        take(&mut stream, &mut buffer, length, &mut payload).await?;
        let out = match kind {
            SETTINGS if flags & 1 == 0 => frame(SETTINGS, 1, 0, &[]),
            6 if flags & 1 == 0 => frame(6, 1, 0, &payload),
            1 => unseemly(id, log.http2.fetch_add(1, Ordering::SeqCst), secret),
            _ => continue,
        };
        stream.write_all(&out).await?;
        stream.flush().await?;
    }
}

/// In the order in which the hostile program asks: a body for HEAD, for 204, for 304, then a trailer.
fn unseemly(id: u32, number: usize, secret: &str) -> Vec<u8> {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    // Entries of the static table: `:status` 200, 204 and 304.
    let status = [0x88, 0x89, 0x8b, 0x88][number % 4];
    let head = frame(HEADERS, END_HEADERS, id, &[status]);
    if number % 4 < 3 {
        return [head, frame(DATA, END_STREAM, id, secret.as_bytes())].concat();
    }
    let size = u8::try_from(secret.len()).expect("short");
    let block = [&[0x10, 6][..], b"x-echo", &[size], secret.as_bytes()].concat();
    [head, frame(DATA, 0, id, b"x"), frame(HEADERS, END_HEADERS | END_STREAM, id, &block)].concat()
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}
