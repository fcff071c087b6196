//! Requests to AWS are signed, and the secret that signs never travels. The sandbox signs with the stub; whether it did is
//! found out by signing with the stub here too. If the signatures are the same, the request is signed anew with the real
//! secret, as it goes out. Nothing else is ever done with such a secret.

mod canonical;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::{Request, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::body::{BoxError, Relay};
use crate::grants::{Open, Table};
use crate::refusal::Refusal;
use crate::scrub::Care;

use canonical::{Form, Message};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// The kinds that sign with a key made of the secret.
const OTHER_ALGORITHM: &str = "AWS4-ECDSA-P256-SHA256";
/// Most clients do not say the digest of a body in a header, so that it has to be read before the request can be signed.
/// Of the services whose clients do that, few take more.
const MAX_BODY: usize = 16 << 20;
/// For the arrival of such a body.
const BODY_DEADLINE: Duration = Duration::from_secs(300);
/// Held by such bodies at once in one sandbox; more wait.
const MAX_HELD: usize = 2 * MAX_BODY;

/// Room for bodies that are read before they are signed, by the byte.
pub(crate) struct Room(Arc<Semaphore>);

impl Room {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_HELD)))
    }
}

/// A body that was read, and its place in the room.
pub(crate) struct Held {
    pub bytes: Bytes,
    _place: Option<OwnedSemaphorePermit>,
}

/// A request that is to be signed anew.
pub(crate) struct Signing {
    /// Bit of the credential that signs.
    pub signer: u128,
    secret_of: usize,
    form: Form,
    scope: String,
    time: String,
    signed: Vec<String>,
    payload: String,
}

/// What was found out about a request, and its body if that had to be read.
#[derive(Default)]
pub(crate) struct Recognised {
    pub signing: Option<Signing>,
    pub body: Option<Held>,
}

/// What an Authorization header of this kind says.
#[derive(Debug, PartialEq, Eq)]
struct Stated {
    scope: String,
    signed: Vec<String>,
    signature: String,
}

impl Stated {
    fn parse(value: &str) -> Option<Self> {
        let rest = value.strip_prefix(ALGORITHM)?;
        let field = |name: &str| {
            rest.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('=')).map(str::trim)
        };
        let (_, scope) = field("Credential")?.split_once('/')?;
        let signed = field("SignedHeaders")?.split(';').map(str::to_owned).collect();
        Some(Self { scope: scope.to_owned(), signed, signature: field("Signature")?.to_owned() })
    }
}

/// Looks at a request before anything in it is changed. An error is a request that carries stubs and cannot be signed anew.
pub(crate) async fn recognise(
    table: &Table,
    open: &Open,
    room: &Room,
    authority: &HeaderValue,
    request: &mut Request<Incoming>,
) -> Result<Recognised, Refusal> {
    if open.sign == 0 {
        return Ok(Recognised::default());
    }
    let query = request.uri().query().unwrap_or_default();
    if query.contains("X-Amz-Signature=") && table.stubs.occurring(query.as_bytes()) != 0 {
        return Err(unable("has its signature in the query; sign it in the Authorization header"));
    }
    let Some(value) = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::to_owned)
    else {
        return Ok(Recognised::default());
    };
    if value.starts_with(OTHER_ALGORITHM) && carries_stubs(table, request.headers()) {
        return Err(unable("is signed with the algorithm of several regions (SigV4a); use the endpoint of one region"));
    }
    let Some(stated) = Stated::parse(&value) else { return Ok(Recognised::default()) };
    let Some(time) = text_of(request.headers(), "x-amz-date") else {
        let unsigned = Err(unable("has no x-amz-date"));
        return if carries_stubs(table, request.headers()) { unsigned } else { Ok(Recognised::default()) };
    };
    let (payload, body) = match text_of(request.headers(), "x-amz-content-sha256") {
        Some(payload) => (payload, None),
        None if request.body().is_end_stream() => (canonical::payload_of(b""), None),
        None => {
            let body = collect(room, request.body_mut()).await?;
            (canonical::payload_of(&body.bytes), Some(body))
        }
    };
    let message = Message {
        method: request.method().as_str(),
        path: request.uri().path(),
        query: request.uri().query().unwrap_or_default(),
        authority: authority.to_str().unwrap_or_default(),
        headers: request.headers(),
        signed: &stated.signed,
        payload: &payload,
    };
    let found = stated.signed.iter().any(|name| name == "host").then(|| signer(table, open, &message, &stated, &time));
    let Some((secret_of, form)) = found.flatten() else {
        if carries_stubs(table, request.headers()) {
            return Err(unable("was not signed with the stub of a secret key that may be used here"));
        }
        return Ok(Recognised { signing: None, body });
    };
    if payload.starts_with("STREAMING-") && payload != "STREAMING-UNSIGNED-PAYLOAD-TRAILER" {
        return Err(unable("signs its body in chunks; let the client sign the whole body, or none of it"));
    }
    let Stated { scope, signed, signature: _ } = stated;
    let signing = Signing { signer: 1 << secret_of, secret_of, form, scope, time, signed, payload };
    Ok(Recognised { signing: Some(signing), body })
}

/// The credential whose stub made the signature, and the form in which it did.
fn signer(table: &Table, open: &Open, message: &Message<'_>, stated: &Stated, time: &str) -> Option<(usize, Form)> {
    Form::all().find_map(|form| {
        let digest = message.digest(form)?;
        let signs = |stub: &str| canonical::signature(stub, &stated.scope, time, &digest) == stated.signature;
        table.stubs_of(open.sign).find(|(_, stub)| signs(stub)).map(|(index, _)| (index, form))
    })
}

impl Held {
    /// The body as it goes out. Where stubs would be swapped in it, it must hold none: its digest is signed.
    pub fn relay(&self, table: &Table, open: &Open) -> Result<Relay, Refusal> {
        if table.stubs.occurring(&self.bytes) & open.body != 0 {
            let sentence =
                "Stubs may be swapped in the body here, and it is signed: swapping would break the signature.";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "signed_body", sentence));
        }
        Ok(Relay::full(self.bytes.clone()))
    }
}

impl Signing {
    /// How much care the answer needs. An access key's name and a session token are of no use without the secret; clients of
    /// S3 rely on ranges and lengths.
    pub fn care(&self, table: &Table, open: &Open, swapped: u128) -> Care {
        let harmless = table.beside_signatures | table.signing;
        if swapped & !harmless != 0 || open.body != 0 {
            Care::Strict
        } else if open.credential & !harmless != 0 {
            Care::Lenient
        } else {
            Care::InPlace
        }
    }

    /// Signs the request as it is about to go out. Headers that were signed and do not go out are not signed any more.
    pub fn sign(&self, table: &Table, method: &str, uri: &Uri, headers: &mut HeaderMap) -> Result<(), Refusal> {
        let authority = uri.authority().map(|a| a.as_str()).unwrap_or_default();
        let signed: Vec<String> =
            self.signed.iter().filter(|name| *name == "host" || headers.contains_key(*name)).cloned().collect();
        let message = Message {
            method,
            path: uri.path(),
            query: uri.query().unwrap_or_default(),
            authority,
            headers,
            signed: &signed,
            payload: &self.payload,
        };
        let broken = || unable("cannot be signed anew");
        let digest = message.digest(self.form).ok_or_else(broken)?;
        let secret = table.secret_of(self.secret_of);
        let signature = canonical::signature(secret.expose(), &self.scope, &self.time, &digest);
        let stated = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).ok_or_else(broken)?;
        let id = stated.split_once("Credential=").and_then(|(_, rest)| rest.split_once('/')).ok_or_else(broken)?.0;
        let value = format!(
            "{ALGORITHM} Credential={id}/{}, SignedHeaders={}, Signature={signature}",
            self.scope,
            signed.join(";")
        );
        let mut value = HeaderValue::try_from(value).map_err(|_| broken())?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
        Ok(())
    }
}

async fn collect(room: &Room, body: &mut Incoming) -> Result<Held, Refusal> {
    let too_long = || unable("has a body longer than 16 MiB and does not say its digest in x-amz-content-sha256");
    let length = usize::try_from(body.size_hint().exact().unwrap_or(MAX_BODY as u64)).unwrap_or(usize::MAX);
    if length > MAX_BODY {
        return Err(too_long());
    }
    let read = async {
        // Bounded far below what the semaphore counts to.
        let place = room.0.clone().acquire_many_owned(u32::try_from(length).unwrap_or(u32::MAX)).await.ok();
        let bytes = Limited::new(body, MAX_BODY).collect().await?.to_bytes();
        Ok::<_, BoxError>(Held { bytes, _place: place })
    };
    match tokio::time::timeout(BODY_DEADLINE, read).await {
        Ok(Ok(held)) => Ok(held),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_long()),
        Ok(Err(error)) => Err(Refusal::bad_request(format!("The request's body could not be read: {error}."))),
        Err(_) => {
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", "The request's body did not arrive in time."))
        }
    }
}

/// Whether the parts of a signed request that name its credential hold stubs.
fn carries_stubs(table: &Table, headers: &HeaderMap) -> bool {
    let values = [AUTHORIZATION.as_str(), "x-amz-security-token", "x-amz-s3session-token"];
    values.iter().flat_map(|name| headers.get_all(*name)).any(|value| table.stubs.occurring(value.as_bytes()) != 0)
}

fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn unable(why: &str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "signature", format!("This AWS request {why}, so LAP cannot sign it anew."))
}

#[cfg(test)]
mod tests;
