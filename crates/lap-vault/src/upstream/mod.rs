//! Connections to the real servers: dialled at the judged address, verified, kept for the next request.

pub(crate) mod outbound;
pub(crate) mod resolve;
pub(crate) mod tls;

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use futures_util::FutureExt as _;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use lap_domain::egress::Host;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use crate::body::Relay;
use crate::room::Room;
use crate::tasks::Owned;
use crate::upstream::outbound::Outbound;
use crate::upstream::tls::UpstreamTls;

/// For the TCP connection to one address.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// For the TLS handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// For the head of an answer: models think for minutes, long polls wait.
const HEAD_DEADLINE: Duration = Duration::from_secs(15 * 60);
/// Servers close idle connections after a minute or more; being first avoids the race.
const IDLE: Duration = Duration::from_secs(50);
/// Idle connections kept for one place and in all.
const MAX_IDLE_PER_PLACE: usize = 64;
const MAX_PLACES: usize = 512;
/// Enough for 1 Gbit/s at 30 ms.
const H2_STREAM_WINDOW: u32 = 2 << 20;
const H2_CONNECTION_WINDOW: u32 = 8 << 20;

/// Where a request goes and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub tls: bool,
    /// Name in the certificate and in the Host header.
    pub host: Host,
    /// The judged address.
    pub addr: SocketAddr,
    /// Whether the sandbox's client speaks HTTP/2; upstream is then asked for it too.
    pub h2: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("too many connections are open")]
    NoRoom,
    #[error("could not connect: {0}")]
    Connect(std::io::Error),
    #[error("the operator's proxy {0}")]
    Outbound(String),
    #[error("its TLS handshake or certificate is not acceptable: {0}")]
    Tls(std::io::Error),
    #[error("it did not answer in time ({0})")]
    Timeout(&'static str),
    #[error("it broke off: {}", chain(.0))]
    Http(#[from] hyper::Error),
}

fn chain(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Connections of one sandbox.
pub(crate) struct Pool {
    places: Mutex<HashMap<Place, Idle>>,
    tasks: TaskTracker,
    room: Arc<Room>,
    /// The operator's proxy.
    outbound: ArcSwapOption<Outbound>,
}

#[derive(Default)]
struct Idle {
    http1: Vec<(Instant, Http1)>,
    http2: Option<http2::SendRequest<Relay>>,
    /// Taken while somebody connects, so that requests that come together share one HTTP/2 connection.
    connecting: Arc<tokio::sync::Mutex<()>>,
    used: Option<Instant>,
}

/// An HTTP/1.1 connection. It has no task of its own: whoever uses it drives it, which spares two changes of task for every
/// request. While it is kept nobody does, and whether it still stands is found out by the next user.
struct Http1 {
    sender: http1::SendRequest<Relay>,
    /// None once it is over.
    driver: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Http1 {
    /// Moves bytes; false once the connection is over.
    fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        if self.driver.as_mut().is_some_and(|driver| driver.as_mut().poll(cx).is_ready()) {
            self.driver = None;
        }
        self.driver.is_some()
    }

    fn stands(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop())) && !self.sender.is_closed()
    }

    async fn ready(&mut self) -> Result<(), hyper::Error> {
        poll_fn(|cx| {
            self.drive(cx);
            self.sender.poll_ready(cx)
        })
        .await
    }

    /// Sends a request and waits for the head of the answer. With the error comes the request, if nothing of it was sent.
    async fn send(&mut self, request: Request<Relay>) -> Result<Response<Incoming>, TrySendError<Request<Relay>>> {
        let mut sent = std::pin::pin!(self.sender.try_send_request(request));
        let driver = &mut self.driver;
        poll_fn(|cx| {
            if let Poll::Ready(sent) = sent.as_mut().poll(cx) {
                return Poll::Ready(sent);
            }
            if driver.as_mut().is_some_and(|driver| driver.as_mut().poll(cx).is_ready()) {
                *driver = None;
            }
            sent.as_mut().poll(cx)
        })
        .await
    }
}

/// An HTTP/1.1 connection that is busy with an answer's body.
pub(crate) struct Lease {
    http1: Http1,
    place: Place,
    pool: Weak<Pool>,
}

impl Lease {
    /// Moves the bytes of the body that is read.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        self.http1.drive(cx);
    }

    /// The body is over: the connection may serve the next request.
    pub fn give_back(self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.keep(self.place, self.http1);
        }
    }

    /// The connection is to become something else: it goes on by itself until it has.
    pub fn detach(self, tasks: &TaskTracker) {
        if let Some(driver) = self.http1.driver {
            tasks.spawn(driver);
        }
    }
}

/// An answer and, over HTTP/1.1, its connection.
pub(crate) struct Answer {
    pub response: Response<Incoming>,
    pub lease: Option<Lease>,
}

enum Connected {
    Http1(Http1),
    Http2(http2::SendRequest<Relay>),
}

impl Pool {
    pub fn new(tasks: TaskTracker, room: Arc<Room>) -> Arc<Self> {
        Arc::new(Self { places: Mutex::default(), outbound: ArcSwapOption::empty(), tasks, room })
    }

    /// Sends a request to a place, at the first of its judged addresses that answers. Kept connections come first; a request
    /// that was not sent because its connection had just been closed goes over the next one.
    pub async fn send(
        self: &Arc<Self>,
        mut place: Place,
        addresses: &[SocketAddr],
        tls: &UpstreamTls,
        mut request: Request<Relay>,
    ) -> Result<Answer, UpstreamError> {
        let deadline = tokio::time::Instant::now() + HEAD_DEADLINE;
        let late = |_| UpstreamError::Timeout("no response head");
        for addr in addresses {
            place.addr = *addr;
            while let Some(kept) = self.kept(&place) {
                let sent = self.send_over(kept, &place, request);
                match tokio::time::timeout_at(deadline, sent).await.map_err(late)? {
                    Ok(answer) => return Ok(answer),
                    Err((error, None)) => return Err(error),
                    Err((_, Some(unsent))) => request = *unsent,
                }
            }
        }
        let mut failed = UpstreamError::Timeout("no address");
        for addr in addresses {
            place.addr = *addr;
            match self.connect(&place, tls).await {
                Ok(fresh) => {
                    let sent = self.send_over(fresh, &place, request);
                    return tokio::time::timeout_at(deadline, sent).await.map_err(late)?.map_err(|(error, _)| error);
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn send_over(
        self: &Arc<Self>,
        connected: Connected,
        place: &Place,
        request: Request<Relay>,
    ) -> Result<Answer, (UpstreamError, Option<Box<Request<Relay>>>)> {
        match connected {
            Connected::Http1(sender) => self.send1(place, sender, request).await,
            Connected::Http2(sender) => send2(sender, request).await,
        }
    }

    fn kept(&self, place: &Place) -> Option<Connected> {
        let http2 = || self.http2(place).filter(|_| place.h2).map(Connected::Http2);
        http2().or_else(|| self.idle(place).map(Connected::Http1))
    }

    async fn send1(
        self: &Arc<Self>,
        place: &Place,
        mut http1: Http1,
        request: Request<Relay>,
    ) -> Result<Answer, (UpstreamError, Option<Box<Request<Relay>>>)> {
        if let Err(error) = http1.ready().await {
            return Err((error.into(), Some(Box::new(request))));
        }
        match http1.send(for_http1(request)).await {
            Ok(response) => {
                let lease = Lease { http1, place: place.clone(), pool: Arc::downgrade(self) };
                Ok(Answer { response, lease: Some(lease) })
            }
            Err(mut error) => {
                let unsent = error.take_message().map(Box::new);
                Err((error.into_error().into(), unsent))
            }
        }
    }

    async fn connect(&self, place: &Place, tls: &UpstreamTls) -> Result<Connected, UpstreamError> {
        let connecting = {
            if self.places().len() >= MAX_PLACES {
                self.sweep();
            }
            let mut places = self.places();
            if places.len() >= MAX_PLACES {
                places.clear();
            }
            places.entry(place.clone()).or_default().connecting.clone()
        };
        let _turn = if place.h2 { Some(connecting.lock().await) } else { None };
        if place.h2
            && let Some(sender) = self.http2(place)
        {
            return Ok(Connected::Http2(sender));
        }
        let stream = match self.dial(&place.host, place.addr).await {
            Err(UpstreamError::NoRoom) => {
                // Connections that nobody uses are the first to go.
                self.clear();
                self.dial(&place.host, place.addr).await?
            }
            dialled => dialled?,
        };
        if !place.tls {
            return if place.h2 {
                self.start2(place, TokioIo::new(stream)).await
            } else {
                Self::start1(TokioIo::new(stream)).await
            };
        }
        let config = if place.h2 { tls.any() } else { tls.http1() };
        let stream = secure(stream, &place.host, config.clone()).await?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.start2(place, TokioIo::new(stream)).await
        } else {
            Self::start1(TokioIo::new(stream)).await
        }
    }

    /// Where connections go through from now on; whether that is as before.
    pub fn set_outbound(&self, outbound: Option<Outbound>) -> bool {
        let before = self.outbound.swap(outbound.clone().map(Arc::new));
        before.as_deref() == outbound.as_ref()
    }

    /// A TCP connection to the judged address.
    async fn dial(&self, host: &Host, addr: SocketAddr) -> Result<TcpStream, UpstreamError> {
        let outbound = self.outbound.load_full().filter(|outbound| outbound.is_for(host, addr));
        let dialled = async {
            match outbound {
                Some(outbound) => outbound.connect(addr).await,
                None => TcpStream::connect(addr).await.map_err(UpstreamError::Connect),
            }
        };
        let stream = tokio::time::timeout(CONNECT_DEADLINE, dialled)
            .await
            .map_err(|_| UpstreamError::Timeout("no connection"))??;
        if !self.room.has(&stream) {
            return Err(UpstreamError::NoRoom);
        }
        stream.set_nodelay(true).map_err(UpstreamError::Connect)?;
        // Finds servers that vanished while an answer is awaited.
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(60))
            .with_interval(Duration::from_secs(15))
            .with_retries(4);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(UpstreamError::Connect)?;
        Ok(stream)
    }

    /// A TCP connection to the first of the judged addresses that answers.
    pub async fn dial_any(&self, host: &Host, addresses: &[SocketAddr]) -> Result<TcpStream, UpstreamError> {
        let mut failed = None;
        for addr in addresses {
            match self.dial(host, *addr).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or(UpstreamError::Timeout("no address")))
    }

    async fn start1<S>(io: TokioIo<S>) -> Result<Connected, UpstreamError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new().max_headers(256).handshake(io).await?;
        // With upgrades: a 101 hands the connection over instead of ending it. Errors reach whoever waits for the answer.
        let driver = connection.with_upgrades().map(|_| ());
        Ok(Connected::Http1(Http1 { sender, driver: Some(Box::pin(driver)) }))
    }

    async fn start2<S>(&self, place: &Place, io: TokioIo<S>) -> Result<Connected, UpstreamError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::Builder::new(Owned(self.tasks.clone()))
            .timer(TokioTimer::new())
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_header_list_size(256 << 10)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .handshake(io)
            .await?;
        self.tasks.spawn(async move {
            let _ = connection.await;
        });
        let mut places = self.places();
        let idle = places.entry(place.clone()).or_default();
        idle.used = Some(Instant::now());
        idle.http2 = Some(sender.clone());
        Ok(Connected::Http2(sender))
    }

    fn places(&self) -> std::sync::MutexGuard<'_, HashMap<Place, Idle>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn http2(&self, place: &Place) -> Option<http2::SendRequest<Relay>> {
        let mut places = self.places();
        let idle = places.get_mut(place)?;
        if idle.http2.as_ref().is_some_and(http2::SendRequest::is_closed) {
            idle.http2 = None;
        }
        idle.used = Some(Instant::now());
        idle.http2.clone()
    }

    fn idle(&self, place: &Place) -> Option<Http1> {
        loop {
            let (since, mut http1) = self.places().get_mut(place)?.http1.pop()?;
            if since.elapsed() < IDLE && http1.stands() {
                return Some(http1);
            }
        }
    }

    fn keep(&self, place: Place, http1: Http1) {
        if http1.driver.is_none() || http1.sender.is_closed() {
            return;
        }
        let mut places = self.places();
        if places.len() >= MAX_PLACES && !places.contains_key(&place) {
            places.retain(|_, idle| idle.used.is_some_and(|used| used.elapsed() < IDLE));
            if places.len() >= MAX_PLACES {
                return;
            }
        }
        let idle = places.entry(place).or_default();
        idle.used = Some(Instant::now());
        if idle.http1.len() >= MAX_IDLE_PER_PLACE {
            idle.http1.remove(0);
        }
        idle.http1.push((Instant::now(), http1));
    }

    /// Closes what has not been used for a while.
    pub fn sweep(&self) {
        self.places().retain(|_, idle| {
            idle.http1.retain_mut(|(since, http1)| since.elapsed() < IDLE && http1.stands());
            if idle.http2.as_ref().is_some_and(http2::SendRequest::is_closed) {
                idle.http2 = None;
            }
            !idle.http1.is_empty() || idle.used.is_some_and(|used| used.elapsed() < IDLE)
        });
    }

    /// Closes what is idle: authorities or rules have changed.
    pub fn clear(&self) {
        self.places().clear();
    }
}

async fn send2(
    mut sender: http2::SendRequest<Relay>,
    request: Request<Relay>,
) -> Result<Answer, (UpstreamError, Option<Box<Request<Relay>>>)> {
    if let Err(error) = sender.ready().await {
        return Err((error.into(), Some(Box::new(request))));
    }
    match sender.try_send_request(for_http2(request)).await {
        Ok(response) => Ok(Answer { response, lease: None }),
        Err(mut error) => {
            let unsent = error.take_message().map(Box::new);
            Err((error.into_error().into(), unsent))
        }
    }
}

/// Requests travel inside the vault with an absolute URI and a Host header; each protocol wants one of the two.
fn for_http1(mut request: Request<Relay>) -> Request<Relay> {
    *request.version_mut() = http::Version::HTTP_11;
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    *request.uri_mut() = http::Uri::from(path);
    // HTTP/2 clients may cut the cookie header in pieces; HTTP/1.1 servers expect one.
    let cookies: Vec<_> = request.headers().get_all(http::header::COOKIE).iter().cloned().collect();
    if cookies.len() > 1 {
        let joined = cookies.iter().map(http::HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
        if let Ok(joined) = http::HeaderValue::from_bytes(&joined) {
            request.headers_mut().insert(http::header::COOKIE, joined);
        }
    }
    request
}

fn for_http2(mut request: Request<Relay>) -> Request<Relay> {
    *request.version_mut() = http::Version::HTTP_2;
    request.headers_mut().remove(http::header::HOST);
    request
}

async fn secure(
    stream: TcpStream,
    host: &Host,
    config: Arc<rustls::ClientConfig>,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, UpstreamError> {
    let name = match host {
        Host::Name(name) => ServerName::try_from(name.clone())
            .map_err(|e| UpstreamError::Tls(std::io::Error::new(std::io::ErrorKind::InvalidInput, e)))?,
        Host::Addr(addr) => ServerName::from(IpAddr::clone(addr)),
    };
    tokio::time::timeout(HANDSHAKE_DEADLINE, TlsConnector::from(config).connect(name, stream))
        .await
        .map_err(|_| UpstreamError::Timeout("no TLS handshake"))?
        .map_err(UpstreamError::Tls)
}
