//! Addresses of contents.

use anyhow::Result;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use serde::Serialize;

/// The hash of a value: equal values have equal keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; 16]);

impl Key {
    /// The key of a value, by its JSON. `what` keeps values of different kinds apart.
    ///
    /// # Errors
    /// When the value has no JSON.
    pub fn of(what: &str, value: &impl Serialize) -> Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(what.as_bytes()).update(&[0]);
        hasher.update(&serde_json::to_vec(value)?);
        let mut key = [0; 16];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Ok(Key(key))
    }

    /// The key as hexadecimal digits.
    pub fn hex(self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }

    /// A number that is as good as random, and the same for the same key.
    pub fn number(self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(bytes)
    }

    /// Keys in one row of bytes.
    pub(super) fn join(keys: &[Key]) -> Vec<u8> {
        keys.iter().flat_map(|key| key.0).collect()
    }

    /// The opposite of [`Key::join`].
    pub(super) fn split(bytes: &[u8]) -> Vec<Key> {
        bytes.as_chunks().0.iter().map(|key| Key(*key)).collect()
    }
}

impl ToSql for Key {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(&self.0[..]))
    }
}

impl FromSql for Key {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(Key(value.as_blob()?.try_into().map_err(|_| FromSqlError::InvalidType)?))
    }
}
