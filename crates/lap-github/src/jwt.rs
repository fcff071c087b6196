//! The statements with which an app proves itself: JSON Web Tokens, signed with RS256. Only this one shape is made.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lap_domain::secret::Secret;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;

use crate::GithubAppError;

/// GitHub's clock may run behind ours.
const BACKDATED_SECONDS: u64 = 60;

/// GitHub takes statements that hold for ten minutes at most, from their beginning.
const LIFE_SECONDS: u64 = 9 * 60;

/// The app's private key.
pub struct SigningKey(KeyPair);

impl SigningKey {
    /// Reads PKCS#1 (`RSA PRIVATE KEY`) or PKCS#8 (`PRIVATE KEY`).
    pub fn from_pem(pem: &Secret) -> Result<Self, GithubAppError> {
        let bad = |_| GithubAppError::BadKey;
        let der = PrivateKeyDer::from_pem_slice(pem.expose().as_bytes()).map_err(|_| GithubAppError::BadKey)?;
        match &der {
            PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()).map_err(bad),
            PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(bad),
            _ => Err(GithubAppError::BadKey),
        }
        .map(Self)
    }

    /// The app's statement about itself, valid for minutes from `now` on.
    pub fn statement(&self, app_id: &str, now: u64) -> Secret {
        let claims = serde_json::json!({
            "iat": now.saturating_sub(BACKDATED_SECONDS),
            "exp": now.saturating_sub(BACKDATED_SECONDS) + LIFE_SECONDS,
            "iss": app_id,
        });
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let signed = format!("{}.{}", encode(br#"{"alg":"RS256","typ":"JWT"}"#), encode(claims.to_string().as_bytes()));
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .expect("a key that was read can sign");
        Secret::new(format!("{signed}.{}", encode(&signature)))
    }
}

/// The time as statements have it.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
