//! The sandbox's own certificate authority and the certificates it makes for the hosts the sandbox talks to.
//!
//! The authority's key lives in this process only. Leaves share one other key: making keys per host would cost more than
//! everything else, and nobody but this process holds either. Finished TLS configurations are cached per host.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use lap_domain::egress::Host;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;

use crate::error::VaultError;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Clocks inside may run behind.
const BACKDATE: Duration = DAY;
/// A sandbox lives days; clients refuse leaves of more than 398.
const LEAF_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const CA_LIFE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// A leaf is made again after this, long before it ends.
const LEAF_REUSE: Duration = DAY;
/// Hosts whose configuration is kept. A sandbox that talks to more pays a signature (50 µs) for each new one.
const MAX_CACHED: usize = 1024;

type Slot = Arc<OnceLock<Result<Arc<ServerConfig>, String>>>;

/// The authority of one sandbox.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca_der: CertificateDer<'static>,
    ca_pem: String,
    leaf_key: KeyPair,
    leaf_key_der: Vec<u8>,
    provider: Arc<CryptoProvider>,
    tickets: Arc<dyn rustls::server::ProducesTickets>,
    cache: Mutex<HashMap<Host, (Instant, Slot)>>,
}

impl Authority {
    pub fn new() -> Result<Self, VaultError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(VaultError::Authority)?;
        let leaf_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(VaultError::Authority)?;
        let mut params = CertificateParams::default();
        // A name of its own keeps two sandboxes' authorities apart wherever certificates are compared by name.
        params.distinguished_name = common_name(&format!("LAP sandbox authority {}", random_hex()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(random_serial());
        set_life(&mut params, CA_LIFE);
        let certificate = params.self_signed(&key).map_err(VaultError::Authority)?;
        Ok(Self {
            ca_der: certificate.der().clone(),
            ca_pem: certificate.pem(),
            issuer: Issuer::new(params, key),
            leaf_key_der: leaf_key.serialize_der(),
            leaf_key,
            provider: Arc::new(provider()),
            tickets: rustls::crypto::aws_lc_rs::Ticketer::new().map_err(VaultError::Tickets)?,
            cache: Mutex::new(HashMap::new()),
        })
    }

    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The TLS configuration that speaks for `host`. Two that ask at once wait for one signature.
    pub fn config_for(&self, host: &Host) -> Result<Arc<ServerConfig>, String> {
        let slot = {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            match cache.get(host) {
                Some((made, slot)) if made.elapsed() < LEAF_REUSE => slot.clone(),
                _ => {
                    if cache.len() >= MAX_CACHED {
                        // Which one goes is of no importance: it costs one signature to have it back.
                        let oldest = cache.iter().min_by_key(|(_, (made, _))| *made).map(|(host, _)| host.clone());
                        oldest.and_then(|host| cache.remove(&host));
                    }
                    let slot = Slot::default();
                    cache.insert(host.clone(), (Instant::now(), slot.clone()));
                    slot
                }
            }
        };
        slot.get_or_init(|| self.make_config(host).map(Arc::new)).clone()
    }

    fn make_config(&self, host: &Host) -> Result<ServerConfig, String> {
        let leaf = self.mint(host).map_err(|e| e.to_string())?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.leaf_key_der.clone()));
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|e| e.to_string())?
            .with_no_client_auth()
            .with_single_cert(vec![leaf, self.ca_der.clone()], key)
            .map_err(|e| e.to_string())?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = self.tickets.clone();
        config.send_tls13_tickets = 1;
        Ok(config)
    }

    fn mint(&self, host: &Host) -> Result<CertificateDer<'static>, rcgen::Error> {
        let mut params = CertificateParams::default();
        let shown = match host {
            Host::Name(name) => {
                params.subject_alt_names = vec![SanType::DnsName(name.as_str().try_into()?)];
                name.clone()
            }
            Host::Addr(addr) => {
                params.subject_alt_names = vec![SanType::IpAddress(*addr)];
                if let IpAddr::V4(v4) = addr {
                    // A client that was given the address wrapped in IPv6 compares it so.
                    params.subject_alt_names.push(SanType::IpAddress(IpAddr::V6(v4.to_ipv6_mapped())));
                }
                addr.to_string()
            }
        };
        // X.509 allows 64 characters in a common name; clients look at the alternative names anyway.
        params.distinguished_name = common_name(if shown.len() <= 64 { &shown } else { "LAP sandbox" });
        // Not `NoCa`: this form also writes the subject key identifier.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(random_serial());
        set_life(&mut params, LEAF_LIFE);
        Ok(params.signed_by(&self.leaf_key, &self.issuer)?.der().clone())
    }
}

/// Key exchanges inside: the sandbox's traffic never leaves the machine, so post-quantum shares would only cost time.
fn provider() -> CryptoProvider {
    use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
    CryptoProvider { kx_groups: vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1], ..default_provider() }
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

fn set_life(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + life - BACKDATE).into();
}

/// Two certificates of one issuer must not share a serial: browsers refuse the second.
fn random_serial() -> SerialNumber {
    let mut bytes = random_bytes();
    bytes[0] &= 0x7f;
    bytes[0] |= 0x40;
    SerialNumber::from_slice(&bytes)
}

fn random_hex() -> String {
    random_bytes()[..8].iter().map(|b| format!("{b:02x}")).collect()
}

fn random_bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).expect("the kernel's random source does not fail once it is seeded");
    bytes
}
