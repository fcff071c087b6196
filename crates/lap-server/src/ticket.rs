//! Tickets: what opens one session's terminal for a few minutes, where a browser or a proxy cannot carry a key.
//!
//! Many proxies drop the Authorization header of a WebSocket upgrade, so the terminal's address may carry a token instead.
//! An address ends up in histories and logs; that is why it holds no key but this.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lap_domain::secret::Secret;

use crate::auth::Caller;

/// How long a ticket opens its terminal. A connection that was opened in time may last.
const VALID_S: i64 = 5 * 60;

/// Makes and checks tickets, with a key that follows from the server's own: servers that share it know each other's tickets,
/// and a new one ends them all.
#[derive(Clone)]
pub(crate) struct Tickets {
    key: hmac::Key,
}

impl Tickets {
    pub(crate) fn new(master_key: &Secret) -> Self {
        let master = hmac::Key::new(hmac::HMAC_SHA256, master_key.expose().as_bytes());
        let derived = hmac::sign(&master, b"lap: key of terminal tickets");
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()) }
    }

    /// A ticket for one session with the rights of this caller.
    pub(crate) fn issue(&self, session: &str, caller: Caller, now_s: i64) -> String {
        let claim = format!("{}.{}", now_s + VALID_S, caller.as_str());
        let proof = hmac::sign(&self.key, signed(session, &claim).as_bytes());
        format!("{claim}.{}", URL_SAFE_NO_PAD.encode(proof.as_ref()))
    }

    /// Whose ticket this is, if it is genuine, for this session, and not too old.
    pub(crate) fn check(&self, session: &str, ticket: &str, now_s: i64) -> Option<Caller> {
        let (claim, proof) = ticket.rsplit_once('.')?;
        let (expires, caller) = claim.split_once('.')?;
        let proof = URL_SAFE_NO_PAD.decode(proof).ok()?;
        // In constant time, and before anything in it is believed.
        hmac::verify(&self.key, signed(session, claim).as_bytes(), &proof).ok()?;
        let expires: i64 = expires.parse().ok()?;
        Caller::named(caller).filter(|_| now_s < expires)
    }
}

fn signed(session: &str, claim: &str) -> String {
    format!("{session}\n{claim}")
}

#[cfg(test)]
mod tests;
