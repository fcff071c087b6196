//! Typed names of things. All are UUIDs (version 7) as text; this module only keeps them apart.

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
