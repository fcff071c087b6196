//! What a client says it signed. Input: lines of method, target, Authorization, and headers.

use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::Stated;
use super::canonical::{Form, Message};

/// A canonical request has as many lines as it must, whatever its parts hold: none of them can pass for another.
pub(crate) fn signed_request(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let (Some(method), Some(Ok(uri)), Some(stated)) =
        (lines.next(), lines.next().map(str::parse::<Uri>), lines.next().map(Stated::parse))
    else {
        return;
    };
    let Some(stated) = stated else { return };
    let Ok(method) = method.parse::<http::Method>() else { return };
    // The signature is compared, never looked into; the names come out of a header, which has no line breaks.
    assert!(stated.signed.iter().all(|name| !name.contains('\n')));
    let headers: HeaderMap = lines
        .filter_map(|line| line.split_once(": "))
        .filter_map(|(name, value)| Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value).ok()?)))
        .collect();
    let message = Message {
        method: method.as_str(),
        path: uri.path(),
        query: uri.query().unwrap_or_default(),
        authority: "service.region.example.com",
        headers: &headers,
        signed: &stated.signed,
        payload: "UNSIGNED-PAYLOAD",
    };
    for form in Form::all() {
        let Some(canonical) = message.canonical(form) else { continue };
        assert_eq!(canonical.matches('\n').count(), 3 + stated.signed.len() + 2, "{canonical}");
        assert_eq!(message.canonical(form).as_ref(), Some(&canonical));
        let path = canonical.split('\n').nth(1).unwrap_or_default();
        assert!(path.starts_with('/') || uri.path() == "*", "{path}");
        assert_eq!(message.digest(form).map(|digest| digest.len()), Some(64));
    }
}
