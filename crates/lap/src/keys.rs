//! The server's two keys: made on first start, kept in files only the server's user can read.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use lap_domain::secret::Secret;
use lap_store::{EncryptionKey, KeyId};

/// A key and whether it was made just now.
pub struct Key {
    pub value: Secret,
    pub fresh: bool,
}

/// File of the master key in the data folder.
pub fn master_key_file(data_dir: &Path) -> PathBuf {
    data_dir.join("master.key")
}

/// The operator's master key, or the one in the data folder, made if there is none.
pub fn master(data_dir: &Path, given: Option<Secret>) -> io::Result<Key> {
    match given {
        Some(value) => Ok(Key { value, fresh: false }),
        None => kept(&master_key_file(data_dir), || format!("lap_{}", hex(&random()))),
    }
}

/// File of the key that everything secret in the database is encrypted with.
pub fn encryption_key_file(data_dir: &Path) -> PathBuf {
    data_dir.join("encryption.key")
}

/// File of the key that is to follow it, while the database is being encrypted again.
fn next_key_file(data_dir: &Path) -> PathBuf {
    data_dir.join("encryption.next.key")
}

/// The key that everything secret in the database is encrypted with: given as 64 hexadecimal digits, or kept in the data
/// folder, made if there is none.
pub fn encryption(data_dir: &Path, given: Option<Secret>) -> io::Result<EncryptionKey> {
    let text = match given {
        Some(value) => value,
        None => kept(&encryption_key_file(data_dir), || hex(&random()))?.value,
    };
    encryption_key(&text)
}

/// The key that is to follow: made and kept, or the one an interrupted rotation left.
pub fn next_encryption(data_dir: &Path) -> io::Result<EncryptionKey> {
    encryption_key(&kept(&next_key_file(data_dir), || hex(&random()))?.value)
}

/// Puts the next key in the place of the old one if the database was written with it already, as after a rotation that was
/// killed before its last step. True when there was something to do.
pub fn finish_rotation(data_dir: &Path, written_with: Option<KeyId>) -> io::Result<bool> {
    let next = next_key_file(data_dir);
    let key = match read(&next) {
        Ok(text) => encryption_key(&text)?,
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(problem) => return Err(problem),
    };
    if written_with != Some(key.id()) {
        return Ok(false);
    }
    std::fs::rename(&next, encryption_key_file(data_dir))?;
    std::fs::File::open(data_dir)?.sync_all()?;
    Ok(true)
}

/// The key that these digits stand for.
pub fn encryption_key(text: &Secret) -> io::Result<EncryptionKey> {
    let digits = text.expose().trim();
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "the encryption key is not 64 hexadecimal digits");
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(bad());
    }
    let mut key = [0; 32];
    for (byte, pair) in key.iter_mut().zip(digits.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
    }
    Ok(EncryptionKey::new(&key))
}

/// The content of a key file, written first if it does not exist. Written beside and linked into place, so that a crash
/// leaves no half key.
fn kept(file: &Path, make: impl FnOnce() -> String) -> io::Result<Key> {
    match read(file) {
        Ok(value) => return Ok(Key { value, fresh: false }),
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => {}
        Err(problem) => return Err(problem),
    }
    let beside = file.with_extension("new");
    let _ = std::fs::remove_file(&beside);
    let value = make();
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    out.write_all(value.as_bytes())?;
    out.sync_all()?;
    std::fs::rename(&beside, file)?;
    if let Some(folder) = file.parent() {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(Key { value: Secret::new(value), fresh: true })
}

/// A key file that others can read is refused: it may be known already.
fn read(file: &Path) -> io::Result<Secret> {
    let mut open = std::fs::File::open(file)?;
    let mode = open.metadata()?.permissions().mode();
    if mode & 0o077 != 0 {
        let what = format!(
            "{} can be read by others (mode {:o}); chmod 600 it and consider a new key",
            file.display(),
            mode & 0o777
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    let mut text = String::new();
    open.read_to_string(&mut text)?;
    let value = Secret::new(text.trim().to_owned());
    if value.expose().is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is empty", file.display())));
    }
    Ok(value)
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system has randomness");
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
