//! Facts about the database itself: which key it was written with, and the key of its hashes.
//!
//! Whatever else needs a key gets a random one of its own that is kept here, sealed. Derived from the encryption key it
//! would change with it, and with it everything it had been used for.

use aws_lc_rs::hmac;
use sqlx::SqliteConnection;

use crate::crypt::{EncryptionKey, Place};
use crate::{Store, StoreError};

const KEY_CHECK: &str = "key_check";
const HMAC_KEY: &str = "hmac_key";

/// Where a fact that is sealed stands.
pub(crate) fn place(name: &str) -> Place<'_> {
    Place { table: "meta", column: "value", owner: name, item: "" }
}

/// On a new database leaves a mark sealed with the key; on an old one opens that mark.
pub(crate) async fn check_key(db: &mut SqliteConnection, key: &EncryptionKey) -> Result<(), StoreError> {
    kept(db, key, KEY_CHECK, || b"lap".to_vec()).await.map(drop)
}

/// The key of [`Store::hmac`].
pub(crate) async fn hmac_key(db: &mut SqliteConnection, key: &EncryptionKey) -> Result<hmac::Key, StoreError> {
    let random = || {
        let mut bytes = vec![0; 32];
        aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
        bytes
    };
    let bytes = kept(db, key, HMAC_KEY, random).await?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, bytes.expose()))
}

/// The sealed fact of this name, made when there is none.
async fn kept(
    db: &mut SqliteConnection,
    key: &EncryptionKey,
    name: &str,
    make: impl FnOnce() -> Vec<u8>,
) -> Result<lap_domain::secret::Secret<Vec<u8>>, StoreError> {
    let there = sqlx::query_scalar!("SELECT value FROM meta WHERE name = ?1", name).fetch_optional(&mut *db).await?;
    if let Some(sealed) = there {
        return key.open(&place(name), &sealed);
    }
    let value = make();
    let sealed = key.seal(&place(name), &value);
    sqlx::query!("INSERT INTO meta (name, value) VALUES (?1, ?2)", name, sealed).execute(&mut *db).await?;
    Ok(lap_domain::secret::Secret::new(value))
}

impl Store {
    /// A keyed hash: tells whether two bodies are the same to nobody who has not got the encryption key. Stays the same when
    /// that is changed.
    pub fn hmac(&self, body: &[u8]) -> Vec<u8> {
        hmac::sign(&self.shared.hmac_key, body).as_ref().to_vec()
    }
}
