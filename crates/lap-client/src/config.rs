//! What a client must be told: where the server is, who asks, whom to trust.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use url::Url;

/// An API key; its value shows in no output.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// Takes a key, without the white space that pasting brings along.
    pub fn new(value: &str) -> Self {
        Self(value.trim().to_owned())
    }

    /// The key itself, for the one header it goes into and the file it is kept in.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// How to reach a server.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Address without `/api/v1`, such as `https://lap.example.com` or `http://127.0.0.1:4773/behind/a/proxy`.
    pub server: Url,
    /// Sent as `Authorization: Bearer`.
    pub key: Option<ApiKey>,
    /// PEM certificates trusted beside the system's.
    pub extra_ca_pem: Option<Vec<u8>>,
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The address is no address.
    #[error("`{server}` is not a server address: {reason}")]
    Server {
        /// As given.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The extra certificates cannot be read.
    #[error("could not read the extra CA certificates: {0}")]
    Certificates(String),
    /// The key holds characters that no header can carry.
    #[error("the API key holds characters that cannot be sent")]
    Key,
}

/// Reads a server address as people type it; `http://` is added where only host and port are given.
pub fn server_url(text: &str) -> Result<Url, ConfigError> {
    let text = text.trim();
    let refuse = |reason: &str| ConfigError::Server { server: text.to_owned(), reason: reason.to_owned() };
    let spelled = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&spelled).map_err(|e| refuse(&e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse("it must begin with http:// or https://"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(refuse("it names no host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ConfigError::Server {
            server: url.host_str().unwrap_or_default().to_owned(),
            reason: "it must not hold a user or password; the API key is given apart".to_owned(),
        });
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("it must end before any `?` or `#`"));
    }
    Ok(url)
}

/// TLS as the client does it: system roots plus the extra ones, TLS 1.2 and 1.3, HTTP/1.1.
pub(crate) fn tls(https: bool, extra_ca_pem: Option<&[u8]>) -> Result<Arc<rustls::ClientConfig>, ConfigError> {
    let mut roots = rustls::RootCertStore::empty();
    if https {
        // Loading takes milliseconds that a plain-http client need not spend. Unreadable system roots show as an
        // untrusted server later, which says more than a failure here would.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Some(pem) = extra_ca_pem {
        let mut n_added = 0;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|e| ConfigError::Certificates(e.to_string()))?;
            roots.add(certificate).map_err(|e| ConfigError::Certificates(e.to_string()))?;
            n_added += 1;
        }
        if n_added == 0 {
            return Err(ConfigError::Certificates("there is no PEM certificate in it".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| ConfigError::Certificates(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
