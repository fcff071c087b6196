//! Facts about the database itself.

use crate::crypt::Place;
use crate::{Store, StoreError};

const KEY_CHECK: &str = "key_check";

impl Store {
    /// On a new database leaves a mark sealed with the key; on an old one opens that mark.
    pub(crate) async fn check_key(&self) -> Result<(), StoreError> {
        let place = Place { table: "meta", column: "value", owner: KEY_CHECK, item: "" };
        let mut tx = self.begin().await?;
        let mark =
            sqlx::query_scalar!("SELECT value FROM meta WHERE name = ?1", KEY_CHECK).fetch_optional(&mut *tx).await?;
        match mark {
            Some(sealed) => match self.key().open(&place, &sealed) {
                Ok(_) => Ok(()),
                Err(_) => Err(StoreError::WrongKey),
            },
            None => {
                let sealed = self.key().seal(&place, b"lap");
                sqlx::query!("INSERT INTO meta (name, value) VALUES (?1, ?2)", KEY_CHECK, sealed)
                    .execute(&mut *tx)
                    .await?;
                tx.commit().await?;
                Ok(())
            }
        }
    }
}
