//! Secrets made to be looked for: if one turns up where it must not be, the test names the place and the disguise.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

/// A secret that exists nowhere else.
#[derive(Clone)]
pub struct Canary {
    secret: String,
    needles: Vec<(&'static str, Vec<u8>)>,
}

/// A place where a canary was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Where: a path, or the name given to the bytes.
    pub place: String,
    /// In which encoding.
    pub disguise: &'static str,
    /// Position of the first byte.
    pub offset: usize,
}

impl fmt::Display for Sighting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {} ({})", self.place, self.offset, self.disguise)
    }
}

impl Canary {
    /// A fresh one that begins with `prefix`, such as `ghp_`. Letters and digits follow, so that no tool has to quote it.
    pub fn new(prefix: &str) -> Canary {
        let mut bytes = [0; 20];
        aws_lc_rs::rand::fill(&mut bytes).expect("the system gives randomness");
        let random: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Canary::of(&format!("{prefix}{random}"))
    }

    /// Looks for this given secret. It should be long and random, or other text will be taken for it.
    pub fn of(secret: &str) -> Canary {
        let bytes = secret.as_bytes();
        let mut needles = vec![("plain", bytes.to_vec())];
        // Inside longer text base64 depends on the position, so the three cores that do not are looked for, and with them
        // Basic credentials such as `user:secret`.
        for shift in 0..3 {
            let padded = [&vec![0; shift][..], bytes].concat();
            let start = (shift * 8).div_ceil(6);
            let end = padded.len() * 8 / 6;
            needles.push(("base64", STANDARD_NO_PAD.encode(&padded).as_bytes()[start..end].to_vec()));
            needles.push(("base64url", URL_SAFE_NO_PAD.encode(&padded).as_bytes()[start..end].to_vec()));
        }
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        needles.push(("hex", hex.to_uppercase().into_bytes()));
        needles.push(("hex", hex.into_bytes()));
        let percent = percent_encoding::utf8_percent_encode(secret, percent_encoding::NON_ALPHANUMERIC).to_string();
        needles.push(("percent", percent.to_lowercase().into_bytes()));
        needles.push(("percent", percent.into_bytes()));
        let json = serde_json::Value::from(secret).to_string();
        needles.push(("json", json.as_bytes()[1..json.len() - 1].to_vec()));
        needles.push(("utf-16", secret.encode_utf16().flat_map(u16::to_le_bytes).collect()));
        needles.push(("reversed", bytes.iter().rev().copied().collect()));
        let mut distinct: Vec<(&'static str, Vec<u8>)> = Vec::new();
        for (disguise, needle) in needles {
            if distinct.iter().all(|(_, other)| *other != needle) {
                distinct.push((disguise, needle));
            }
        }
        Canary { secret: secret.to_owned(), needles: distinct }
    }

    /// The secret itself.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// As a Basic header carries it.
    pub fn basic(&self, user: &str) -> String {
        STANDARD.encode(format!("{user}:{}", self.secret))
    }

    /// As base64url text, for tests of the search itself.
    pub fn base64url(&self) -> String {
        URL_SAFE.encode(&self.secret)
    }

    /// Looks through bytes that are called `place` in what is found.
    pub fn in_bytes(&self, place: &str, bytes: &[u8]) -> Vec<Sighting> {
        let sighting = |(disguise, needle): &(&'static str, Vec<u8>)| {
            let offset = find(bytes, needle)?;
            Some(Sighting { place: place.to_owned(), disguise, offset })
        };
        self.needles.iter().filter_map(sighting).collect()
    }

    /// Looks through a file, or through every file below a folder, and through the names. Unreadable ones are passed over,
    /// links are not followed.
    pub fn in_path(&self, path: &Path) -> Vec<Sighting> {
        let mut found = Vec::new();
        self.walk(path.to_owned(), &mut found);
        found
    }

    fn walk(&self, path: PathBuf, found: &mut Vec<Sighting>) {
        let place = path.display().to_string();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        found.extend(self.in_bytes(&format!("the name {place}"), name));
        let Ok(kind) = std::fs::symlink_metadata(&path) else { return };
        if kind.is_symlink() {
            let target = std::fs::read_link(&path).unwrap_or_default();
            found.extend(self.in_bytes(&format!("the target of {place}"), target.as_os_str().as_encoded_bytes()));
        } else if kind.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            entries.for_each(|entry| self.walk(entry.path(), found));
        } else if kind.is_file()
            && let Ok(bytes) = without_holes(&path)
        {
            found.extend(self.in_bytes(&place, &bytes));
        }
    }

    /// Panics with every place where it was found.
    #[track_caller]
    pub fn assert_not_in_path(&self, path: &Path) {
        absent(&self.in_path(path));
    }

    /// Panics with every place where it was found.
    #[track_caller]
    pub fn assert_not_in_bytes(&self, place: &str, bytes: impl AsRef<[u8]>) {
        absent(&self.in_bytes(place, bytes.as_ref()));
    }
}

/// What a file holds, the holes of a sparse one left out: volumes are large and almost empty.
fn without_holes(path: &Path) -> std::io::Result<Vec<u8>> {
    use rustix::fs::{SeekFrom, seek};
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::open(path)?;
    let (mut bytes, mut at) = (Vec::new(), 0);
    while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
        at = seek(&file, SeekFrom::Hole(start))?;
        let already = bytes.len();
        bytes.resize(already + usize::try_from(at - start).unwrap_or(0), 0);
        file.read_exact_at(&mut bytes[already..], start)?;
    }
    Ok(bytes)
}

#[track_caller]
fn absent(found: &[Sighting]) {
    let places: Vec<String> = found.iter().map(Sighting::to_string).collect();
    assert!(places.is_empty(), "the canary was seen:\n{}", places.join("\n"));
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, needle)
}

#[cfg(test)]
mod tests;
