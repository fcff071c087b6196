//! The model gateway as the sandbox sees it: `http://gateway.lap.internal`. Only model routes exist there, and the key goes
//! into the auth header only, so that nobody inside can use it to make keys of their own.

use http::{HeaderMap, Method, StatusCode};

use crate::grants::{Gateway, Open, Table};
use crate::meter::Protocol;
use crate::refusal::Refusal;

/// Its name inside.
pub(crate) const NAME: &str = "gateway.lap.internal";

/// Routes that take POST, after an optional `/v1`, and how calls there are metered. Counting tokens uses none.
const MODEL_ROUTES: [(&str, Option<Protocol>); 5] = [
    ("/messages", Some(Protocol::Messages)),
    ("/messages/count_tokens", None),
    ("/chat/completions", Some(Protocol::Chat)),
    ("/responses", Some(Protocol::Responses)),
    ("/embeddings", Some(Protocol::Embeddings)),
];
/// Where clients of the gateway put its key.
const AUTH_HEADERS: [&str; 4] = ["authorization", "x-api-key", "api-key", "x-litellm-api-key"];

/// The path at the real gateway and how what goes there is metered, or why there is none.
pub(crate) fn route(
    gateway: &Gateway,
    method: &Method,
    path: &str,
    query: Option<&str>,
) -> Result<(String, Option<Protocol>), Refusal> {
    // Compared as it stands: encoded, doubled or dotted paths match nothing and so go nowhere.
    let rest = path.strip_prefix("/v1").filter(|rest| rest.starts_with('/')).unwrap_or(path);
    let called = MODEL_ROUTES.iter().find(|(route, _)| *method == Method::POST && *route == rest);
    let known = called.is_some()
        || (matches!(*method, Method::GET | Method::HEAD)
            && (rest == "/models" || rest.strip_prefix("/models/").is_some_and(is_model)));
    if !known {
        let sentence = format!(
            "{method} {path} is no model route of the gateway (messages, messages/count_tokens, chat/completions, responses, \
             embeddings, models)."
        );
        return Err(Refusal::new(StatusCode::FORBIDDEN, "gateway_route", sentence));
    }
    let query = query.map(|q| format!("?{q}")).unwrap_or_default();
    Ok((format!("{}{path}{query}", gateway.prefix), called.and_then(|(_, protocol)| *protocol)))
}

/// Model names hold a slash (`anthropic/claude-…`), but never walk up.
fn is_model(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:/@".contains(&b))
        && name.split('/').all(|segment| !segment.is_empty() && segment != "." && segment != "..")
}

/// Swaps the gateway's key into its auth headers; stubs of other credentials there are refused, all other headers stay.
pub(crate) fn headers(table: &Table, headers: &mut HeaderMap) -> Result<u128, Refusal> {
    let key = table.open_at_gateway();
    let mut auth: HeaderMap = HeaderMap::new();
    for name in AUTH_HEADERS {
        let values: Vec<_> = headers.get_all(name).iter().cloned().collect();
        headers.remove(name);
        for value in values {
            auth.append(http::HeaderName::from_static(name), value);
        }
    }
    let swapped = crate::substitute::headers(table, &Open { credential: key, ..Open::default() }, &mut auth, NAME)?;
    let others = crate::substitute::headers(table, &Open::default(), headers, NAME);
    headers.extend(auth);
    others.map(|_| swapped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: Method, path: &str, expected: Option<&str>) {
        let gateway = Gateway::parse("https://litellm.example.com/base/").expect("an address");
        assert_eq!(
            route(&gateway, &method, path, None).ok().as_ref().map(|(path, _)| path.as_str()),
            expected,
            "{method} {path}"
        );
    }

    #[test]
    fn model_routes_and_nothing_else() {
        check(Method::POST, "/v1/messages", Some("/base/v1/messages"));
        check(Method::POST, "/v1/messages/count_tokens", Some("/base/v1/messages/count_tokens"));
        check(Method::POST, "/chat/completions", Some("/base/chat/completions"));
        check(Method::POST, "/v1/responses", Some("/base/v1/responses"));
        check(Method::POST, "/v1/embeddings", Some("/base/v1/embeddings"));
        check(Method::GET, "/v1/models", Some("/base/v1/models"));
        check(Method::GET, "/models/anthropic/claude-opus-4-7", Some("/base/models/anthropic/claude-opus-4-7"));
        for path in [
            "/key/generate",
            "/v1/key/generate",
            "/",
            "/v1",
            "/v1/v1/messages",
            "/v1/messages/",
            "//v1/messages",
            "/v1//messages",
            "/v1/messages/../../key/generate",
            "/v1/%6dessages",
            "/v1/messages;x",
            "/V1/messages",
            "/v1/chat/completions/../../key/generate",
        ] {
            check(Method::POST, path, None);
        }
        for path in [
            "/models/../key/info",
            "/models/a/../../key",
            "/models/",
            "/models/a//b",
            "/models/%2e%2e/key",
            "/v1/responses/resp_1",
        ] {
            check(Method::GET, path, None);
        }
        check(Method::DELETE, "/v1/models/x", None);
        check(Method::GET, "/v1/messages", None);
    }

    #[test]
    fn the_query_goes_along() {
        let gateway = Gateway::parse("http://10.0.0.5:4000").expect("an address");
        assert_eq!(
            route(&gateway, &Method::POST, "/v1/messages", Some("beta=true")).ok(),
            Some(("/v1/messages?beta=true".to_owned(), Some(Protocol::Messages)))
        );
        assert_eq!(gateway.authority(), "10.0.0.5:4000");
    }
}
