//! A certificate authority that lives as long as a test: what it signs is worth nothing outside.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Issues leaves for names and addresses.
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl TestCa {
    /// A new authority with a key of its own.
    pub fn new(common_name: &str) -> TestCa {
        let key = KeyPair::generate().expect("a P-256 key can be made");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names, nothing to refuse");
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).expect("a fresh key can sign its own certificate");
        let pem = certificate.pem();
        TestCa { certificate: certificate.der().clone(), issuer: Issuer::new(params, key), pem }
    }

    /// The authority's certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes the certificate to `dir` and says where.
    pub fn write(&self, dir: &Path) -> std::io::Result<PathBuf> {
        let path = dir.join("test-ca.pem");
        std::fs::write(&path, &self.pem)?;
        Ok(path)
    }

    /// What a server for these names and addresses needs, offering the protocols in `alpn`.
    pub fn server_config(&self, names: &[String], alpn: &[&str]) -> Arc<ServerConfig> {
        let key = KeyPair::generate().expect("a P-256 key can be made");
        let mut params = CertificateParams::new(names.to_vec()).expect("test names are valid");
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.distinguished_name.push(DnType::CommonName, names.first().map_or("test", String::as_str));
        let leaf = params.signed_by(&key, &self.issuer).expect("the authority signs every leaf");
        let chain = vec![leaf.der().clone(), self.certificate.clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("the leaf belongs to its key");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// A client that trusts this authority and nobody else.
    pub fn client_config(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        trusting([self.certificate.clone()], alpn)
    }
}

/// A client that trusts the certificates in this PEM text, such as the vault's own.
pub fn client_trusting_pem(pem: &str, alpn: &[&str]) -> Arc<ClientConfig> {
    use rustls::pki_types::pem::PemObject;
    trusting(CertificateDer::pem_slice_iter(pem.as_bytes()).map(|found| found.expect("valid PEM")), alpn)
}

fn trusting(certificates: impl IntoIterator<Item = CertificateDer<'static>>, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).expect("a certificate of ours parses");
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
