//! TLS toward the real servers: the system's authorities and the operator's own, always verified.

use std::sync::{Arc, OnceLock};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::error::GrantsError;

/// Client configurations of one set of authorities.
#[derive(Clone)]
pub(crate) struct UpstreamTls {
    extra_pem: Option<String>,
    /// The authorities of that text.
    extra: RootCertStore,
    /// Made when first needed: reading the system's authorities takes milliseconds, which are not to be those in which a
    /// sandbox starts.
    made: Arc<OnceLock<Configs>>,
}

struct Configs {
    any: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
}

impl UpstreamTls {
    /// Trusts the system's authorities and those of the PEM text.
    pub fn new(extra_pem: Option<String>) -> Result<Self, GrantsError> {
        let mut extra = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(extra_pem.as_deref().unwrap_or_default().as_bytes()) {
            let certificate = certificate.map_err(|e| GrantsError::BadAuthority(e.to_string()))?;
            extra.add(certificate).map_err(|e| GrantsError::BadAuthority(e.to_string()))?;
        }
        Ok(Self { extra_pem, extra, made: Arc::default() })
    }

    /// Offers HTTP/2 and HTTP/1.1.
    pub fn any(&self) -> &Arc<ClientConfig> {
        &self.made.get_or_init(|| Configs::trusting(&self.extra)).any
    }

    /// Offers HTTP/1.1 alone: for clients that speak it, and for upgrades.
    pub fn http1(&self) -> &Arc<ClientConfig> {
        &self.made.get_or_init(|| Configs::trusting(&self.extra)).http1
    }

    /// Whether connections made by one may serve the other.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.made, &other.made)
    }

    /// The same authorities again (connections and sessions are kept), or others.
    pub fn with(&self, extra_pem: Option<&String>) -> Result<Self, GrantsError> {
        if self.extra_pem.as_ref() == extra_pem { Ok(self.clone()) } else { Self::new(extra_pem.cloned()) }
    }
}

impl Configs {
    fn trusting(extra: &RootCertStore) -> Self {
        let mut roots = RootCertStore::clone(system_roots());
        roots.extend(extra.roots.iter().cloned());
        let mut any = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the default provider speaks the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http1 = any.clone();
        any.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { any: Arc::new(any), http1: Arc::new(http1) }
    }
}

/// Read once per process. A system without any is no error: the operator may bring the only authority that counts.
fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let loaded = rustls_native_certs::load_native_certs();
        for error in &loaded.errors {
            tracing::warn!("could not read some of the system's certificate authorities: {error}");
        }
        roots.add_parsable_certificates(loaded.certs);
        roots
    })
}
