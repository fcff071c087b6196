//! Connections: accepted, bounded in number and time, and brought to an end when the server stops.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::{Extension, Router};
use http::request::Parts;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// From the opening of a connection, or the end of its last answer, to the end of the next request's headers. Longer than
/// the 90 s for which common clients keep idle connections, so that it is they who close them and no request meets a
/// closing connection.
const HEADERS_DEADLINE: Duration = Duration::from_secs(100);

/// Connections served at a time; more wait in the kernel's queue. Well below usual limits on open files.
const MOST_CONNECTIONS: usize = 4096;

/// How long running requests may take when the server stops. Streams and long waits end at once by themselves, so this is
/// for answers under way; supervisors usually kill after 30 s.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// Pause after a failed accept: out of files or memory, nothing gets better sooner.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `shutdown`, then lets requests under way end. HTTP/1.1 only: TLS, and HTTP/2 with it, is the business of
/// whatever stands in front.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    let router = router.layer(Extension(Stopping { token: Some(shutdown.clone()) }));
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = tokio::select! {
            () = shutdown.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place.map_err(io::Error::other)?,
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        // Keeps the set from growing with connections that are over.
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let (router, shutdown) = (router.clone(), shutdown.clone());
                connections.spawn(async move {
                    connection(stream, router, shutdown).await;
                    drop(place);
                });
            }
            Err(cause) => {
                tracing::warn!(%cause, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_DEADLINE, drained).await.is_err() {
        tracing::warn!("{} connections were still busy and are closed", connections.len());
        connections.shutdown().await;
    }
    Ok(())
}

async fn connection(stream: TcpStream, router: Router, shutdown: CancellationToken) {
    // Small answers must not wait for the acknowledgement of earlier ones.
    if let Err(cause) = stream.set_nodelay(true) {
        tracing::debug!(%cause, "TCP_NODELAY could not be set");
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_DEADLINE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(cause) = ended {
        // Clients go away whenever they like; that is no fault of ours.
        tracing::debug!(%cause, "a connection ended with an error");
    }
}

/// Tells handlers that the server stops. A router that is not run by [`serve`] never stops.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stopping {
    token: Option<CancellationToken>,
}

impl Stopping {
    /// Whether it has been told to.
    pub(crate) fn now(&self) -> bool {
        self.token.as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    /// What comes of `work`, or none as soon as the server stops.
    pub(crate) async fn or<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        match &self.token {
            None => Some(work.await),
            Some(token) => token.run_until_cancelled(work).await,
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Stopping {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}
