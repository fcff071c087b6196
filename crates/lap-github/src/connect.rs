//! One HTTPS request to the API: connect, verify, ask, read. Tokens are asked for a few times an hour; a connection is not
//! kept for that.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::GithubAppError;

/// Answers are a few kilobytes; more is not read.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Trusts the system's authorities and those of the PEM text.
pub fn tls_config(extra_ca_pem: Option<&str>) -> Result<Arc<ClientConfig>, GithubAppError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for certificate in CertificateDer::pem_slice_iter(extra_ca_pem.unwrap_or_default().as_bytes()) {
        let certificate = certificate.map_err(|_| GithubAppError::BadAuthority)?;
        roots.add(certificate).map_err(|_| GithubAppError::BadAuthority)?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the default provider speaks the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Asks; the error is the end of a sentence.
pub async fn ask(
    tls: Arc<ClientConfig>,
    host: &str,
    port: u16,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, http::HeaderMap, Bytes), String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("`{host}` is no host name"))?;
    let stream =
        TcpStream::connect((host, port)).await.map_err(|cause| format!("{host} cannot be reached: {cause}"))?;
    let stream = TlsConnector::from(tls).connect(name, stream).await;
    let stream = stream.map_err(|cause| format!("no safe connection to {host}: {cause}"))?;
    let broken = |cause: hyper::Error| format!("{host} broke off: {cause}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let exchange = async {
        let answer: Response<hyper::body::Incoming> = sender.send_request(request).await.map_err(broken)?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|cause| format!("{host} gave no readable answer: {cause}"))?;
        Ok((head.status, head.headers, body.to_bytes()))
    };
    // Driven here and dropped with the exchange: nothing goes on without its owner.
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            Err(cause) => Err(broken(cause)),
            // What it has read is still to be taken.
            Ok(()) => exchange.await,
        },
    }
}
