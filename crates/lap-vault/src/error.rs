//! What can go wrong with a vault as a whole. What goes wrong with one request is a `Refusal`.

/// A vault could not be made or served.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The certificate authority of the sandbox.
    #[error("could not make the sandbox's certificate authority")]
    Authority(#[source] rcgen::Error),
    /// The keys for session tickets.
    #[error("could not make keys for TLS session tickets")]
    Tickets(#[source] rustls::Error),
    /// A socket that was handed in.
    #[error("could not use a listening socket of the sandbox")]
    Socket(#[source] std::io::Error),
}

/// Grants that cannot be taken. The ones before stay in force.
#[derive(Debug, thiserror::Error)]
pub enum GrantsError {
    /// More than the vault keeps track of.
    #[error("there are {0} credentials; a sandbox has at most 128")]
    TooManyCredentials(usize),
    /// A stub that could be anything.
    #[error("the stub of `{0}` does not begin with `stub_` or is too short")]
    BadStub(String),
    /// An empty secret has no stub.
    #[error("the secret of `{0}` is empty")]
    EmptySecret(String),
    /// The operator's extra authorities.
    #[error("the extra authorities are not PEM certificates: {0}")]
    BadAuthority(String),
    /// A resolver override.
    #[error("`{0}` is not a resolver override; write `name=address` or `name=address:port`")]
    BadOverride(String),
    /// The gateway's address.
    #[error("`{0}` is not a gateway address; write `https://host[:port][/prefix]`")]
    BadGateway(String),
    /// The operator's outbound proxy; never with its address, which may hold a password.
    #[error("the outbound proxy cannot be used: {0}")]
    BadOutbound(String),
}
