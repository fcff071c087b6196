//! Encryption at rest: AES-256-GCM, a random nonce each time, and the place of the value bound to it, so that a
//! ciphertext moved to another row or column does not open.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest;
use lap_domain::secret::Secret;

use crate::StoreError;

/// `version ‖ key id ‖ nonce ‖ ciphertext and tag`.
const VERSION: u8 = 1;
const KEY_ID_LEN: usize = 4;
const HEADER_LEN: usize = 1 + KEY_ID_LEN + NONCE_LEN;

/// The key everything secret is encrypted with. Printed as `***`.
#[derive(Clone)]
pub struct EncryptionKey {
    id: [u8; KEY_ID_LEN],
    key: Arc<LessSafeKey>,
}

impl std::fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EncryptionKey(***)")
    }
}

impl EncryptionKey {
    /// Takes the 32 bytes of a key.
    pub fn new(bytes: &[u8; 32]) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"lap encryption key id\0");
        hash.update(bytes);
        let mut id = [0; KEY_ID_LEN];
        id.copy_from_slice(&hash.finish().as_ref()[..KEY_ID_LEN]);
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("32 bytes are what AES-256 takes");
        Self { id, key: Arc::new(LessSafeKey::new(key)) }
    }

    /// Encrypts `plain` for `place`.
    pub(crate) fn seal(&self, place: &Place<'_>, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).expect("the operating system gives random bytes");
        let mut body = Vec::with_capacity(plain.len() + AES_256_GCM.tag_len());
        body.extend_from_slice(plain);
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place.bytes()), &mut body)
            .expect("the value is far below the cipher's limit");
        let mut sealed = Vec::with_capacity(HEADER_LEN + body.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&self.id);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&body);
        sealed
    }

    /// Decrypts what [`EncryptionKey::seal`] made for the same place.
    pub(crate) fn open(&self, place: &Place<'_>, sealed: &[u8]) -> Result<Secret<Vec<u8>>, StoreError> {
        let unreadable = || StoreError::Corrupt(format!("{}.{} does not decrypt", place.table, place.column));
        let (header, body) = sealed.split_at_checked(HEADER_LEN).ok_or_else(unreadable)?;
        let (version, rest) = header.split_at(1);
        let (key_id, nonce) = rest.split_at(KEY_ID_LEN);
        if version != [VERSION] {
            return Err(unreadable());
        }
        if key_id != self.id {
            return Err(StoreError::WrongKey);
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| unreadable())?;
        let mut body = body.to_vec();
        let length =
            self.key.open_in_place(nonce, Aad::from(place.bytes()), &mut body).map_err(|_| unreadable())?.len();
        body.truncate(length);
        Ok(Secret::new(body))
    }
}

/// Where a sealed value belongs.
pub(crate) struct Place<'a> {
    pub(crate) table: &'static str,
    pub(crate) column: &'static str,
    /// The row's owner, such as the agent.
    pub(crate) owner: &'a str,
    /// Which of the owner's values.
    pub(crate) item: &'a str,
}

impl Place<'_> {
    /// Unambiguous: each part is preceded by its length.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in [self.table, self.column, self.owner, self.item] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests;
