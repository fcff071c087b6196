//! Stubs: the placeholders a sandbox sees instead of secrets.
//!
//! A stub says which credential it stands for and nothing about the value but, where there is room, its length: a body in
//! which both are equally long can be swapped in place.

/// Random digits that every stub has at least.
pub const MIN_DIGITS: usize = 16;
/// Secrets of at least this length get a stub as long as themselves, when the name leaves room for the digits.
pub const EQUAL_LENGTH_FROM: usize = 24;
/// What every stub begins with; the vault searches for it.
pub const PREFIX: &str = "stub_";
/// Names longer than this are cut in the stub, so that a stub stays handy.
const MAX_NAME: usize = 24;
/// Stubs never grow beyond this, however long the secret (PEM keys, service-account files).
const MAX_EQUAL_LENGTH: usize = 512;

/// Makes the stub of variable `key` for a secret of `secret_len` bytes. `random` is at least [`random_needed`] fresh random
/// bytes; with fewer the digits would repeat.
///
/// # Panics
/// When `random` is shorter than 8 bytes, because such a stub could be guessed.
pub fn mint(key: &str, secret_len: usize, random: &[u8]) -> String {
    assert!(random.len() * 2 >= MIN_DIGITS, "a stub needs at least {MIN_DIGITS} random digits");
    let mut stub = format!("{PREFIX}{}_", short_name(key));
    let digits =
        if equal_length(secret_len) { secret_len.saturating_sub(stub.len()).max(MIN_DIGITS) } else { MIN_DIGITS };
    for i in 0..digits {
        let byte = random[(i / 2) % random.len()];
        let nibble = if i % 2 == 0 { byte >> 4 } else { byte & 15 };
        stub.push(char::from_digit(u32::from(nibble), 16).expect("a nibble is a hex digit"));
    }
    stub
}

/// How many random bytes [`mint`] wants for a secret of this length.
pub fn random_needed(secret_len: usize) -> usize {
    if equal_length(secret_len) { secret_len.div_ceil(2).max(MIN_DIGITS / 2) } else { MIN_DIGITS / 2 }
}

/// The name inside a stub: the key in lower case without a trailing `_token`, `_api_key`, `_key` or `_secret`.
pub fn short_name(key: &str) -> String {
    let lower = key.to_ascii_lowercase();
    let name = ["_api_key", "_token", "_secret", "_key"]
        .iter()
        .find_map(|suffix| lower.strip_suffix(suffix).filter(|rest| !rest.is_empty()))
        .unwrap_or(&lower);
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).take(MAX_NAME).collect();
    name.trim_matches('_').to_owned()
}

fn equal_length(secret_len: usize) -> bool {
    (EQUAL_LENGTH_FROM..=MAX_EQUAL_LENGTH).contains(&secret_len)
}

#[cfg(test)]
#[path = "stub/tests.rs"]
mod tests;
