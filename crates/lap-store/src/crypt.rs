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

/// Tells one key from another and says nothing about either. Every sealed value begins with that of its key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyId([u8; KEY_ID_LEN]);

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// The key a sealed value was made with; none for bytes that are no sealed value.
pub(crate) fn sealed_with(sealed: &[u8]) -> Option<KeyId> {
    let (header, _) = sealed.split_at_checked(HEADER_LEN)?;
    let (version, rest) = header.split_first()?;
    let id = rest.first_chunk::<KEY_ID_LEN>()?;
    (*version == VERSION).then_some(KeyId(*id))
}

/// The key everything secret is encrypted with. Printed as `***`.
#[derive(Clone)]
pub struct EncryptionKey {
    id: KeyId,
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
        Self { id: KeyId(id), key: Arc::new(LessSafeKey::new(key)) }
    }

    /// Which key this is.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// How each value that this key sealed begins.
    pub(crate) fn mark(&self) -> Vec<u8> {
        [&[VERSION], self.id.0.as_slice()].concat()
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
        sealed.extend_from_slice(&self.id.0);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&body);
        sealed
    }

    /// Decrypts what [`EncryptionKey::seal`] made for the same place.
    pub(crate) fn open(&self, place: &Place<'_>, sealed: &[u8]) -> Result<Secret<Vec<u8>>, StoreError> {
        let unreadable = || StoreError::Corrupt(format!("{}.{} does not decrypt", place.table, place.column));
        let (header, body) = sealed.split_at_checked(HEADER_LEN).ok_or_else(unreadable)?;
        let needed = sealed_with(sealed).ok_or_else(unreadable)?;
        if needed != self.id {
            return Err(StoreError::WrongKey { given: self.id, needed });
        }
        let nonce = Nonce::try_assume_unique_for_key(&header[1 + KEY_ID_LEN..]).map_err(|_| unreadable())?;
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
