//! Typed names of things. All are UUIDs (version 7) as text; this module only keeps them apart.

use crate::time::Timestamp;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident,)*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// Takes an id as it stands in the database or in a path.
            pub fn new(text: impl Into<String>) -> Self { Self(text.into()) }
            /// The text of the id.
            pub fn as_str(&self) -> &str { &self.0 }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(&self.0) }
        }
    )* };
}

ids! {
    /// An agent.
    AgentId,
    /// A session.
    SessionId,
    /// A turn of a session.
    TurnId,
    /// A skill of the library.
    SkillId,
}

/// The text of a UUID version 7 made of this time and these random bits: sorts by time, cannot be guessed.
pub fn uuid_v7(now: Timestamp, random: [u8; 10]) -> String {
    let millis = u64::try_from(now.0).unwrap_or(0).to_be_bytes();
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&millis[2..]);
    bytes[6..].copy_from_slice(&random);
    bytes[6] = bytes[6] & 0x0f | 0x70;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests;
