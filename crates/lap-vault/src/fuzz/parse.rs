//! The vault's own parsers of what a sandbox sends.

use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};

use http::header::{HOST, HeaderValue};
use http::{Method, Request};
use lap_domain::egress::{Host, parse_authority};
use tokio::sync::mpsc;

use super::input::Input;
use crate::connection::{Connection, Meant};
use crate::grants::Gateway;
use crate::names::{InsideNet, Means, Names};
use crate::{Vault, VaultConfig, dns as resolver, gateway, record, request, wire};

/// More bytes never change what the first ones have said, and a decision comes soon.
pub fn speaks(data: &[u8]) {
    let whole = wire::judge(data);
    for end in 0..data.len() {
        if let Some(early) = wire::judge(&data[..end]) {
            assert_eq!(whole, Some(early), "judged otherwise after {end} bytes");
            break;
        }
    }
    assert!(whole.is_some() || data.len() <= 24, "{} bytes and no decision", data.len());
}

/// An answer repeats id and question, and gives an address only to a name it stands for.
pub fn dns(data: &[u8]) {
    let names = Names::new(InsideNet { base: Ipv4Addr::new(198, 18, 0, 0), bits: 15 });
    let Some(reply) = resolver::answer(data, &names) else { return };
    assert!(reply.len() >= 12 && reply.len() <= 12 + 255 + 4 + 16);
    assert_eq!(reply[..2], data[..2]);
    assert_eq!(reply[2] & 0x80, 0x80, "an answer");
    let questions = usize::from(reply[5]);
    let answers = usize::from(reply[7]);
    assert_eq!((reply[4], reply[6], &reply[8..12]), (0, 0, &[0; 4][..]));
    assert!(questions <= 1 && answers <= questions);
    let question_end = reply.len() - 16 * answers;
    assert_eq!(reply[12..question_end], data[12..question_end], "the question is repeated");
    assert!(questions == 1 || question_end == 12);
    if answers == 1 {
        assert_eq!(reply[question_end - 4..question_end], [0, 1, 0, 1], "addresses are for questions about addresses");
        let addr: [u8; 4] = *reply.last_chunk().expect("it is long enough");
        let Means::Name(name) = names.meaning_of(addr.into()) else { panic!("an address without a name") };
        assert_eq!(Host::parse(&name), Ok(Host::Name(name.clone())), "a name is a name");
        let again = resolver::answer(data, &names);
        assert_eq!(again.as_deref(), Some(&*reply), "a name keeps its address");
    }
}

/// A path in the record holds the names of the query and none of its values, and has an end.
pub fn recorded_path(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let shown = record::redacted_path(&text);
    assert!(shown.len() <= 2048 + '…'.len_utf8());
    let Some((path, query)) = shown.split_once('?') else { return };
    assert_eq!(Some(path), text.split('?').next());
    if shown.ends_with('…') {
        return;
    }
    for pair in query.split('&') {
        let fine =
            pair.is_empty() || pair == "***" || pair.strip_suffix("=***").is_some_and(|name| !name.contains('='));
        assert!(fine, "`{pair}` is neither a name nor nothing");
    }
}

/// Whatever path is let through to the gateway means the same to everybody: a model route, literally.
pub fn gateway_route(data: &[u8]) {
    let mut input = Input::new(data);
    let method =
        [Method::GET, Method::POST, Method::HEAD, Method::PUT, Method::DELETE][usize::from(input.byte() % 5)].clone();
    let Ok(text) = std::str::from_utf8(input.rest()) else { return };
    let Ok(asked) = text.parse::<http::uri::PathAndQuery>() else { return };
    let target = Gateway::parse("https://gateway.example.com/proxy").expect("a gateway");
    let Ok((path, metered)) = gateway::route(&target, &method, asked.path(), asked.query()) else { return };
    let bare = path.split('?').next().unwrap_or_default();
    let url = url::Url::parse(&format!("https://gateway.example.com{path}")).expect("a route makes a URL");
    assert_eq!(url.path(), bare, "a server could read the path otherwise");
    let route = bare.strip_prefix("/proxy").expect("the prefix stays");
    let route = route.strip_prefix("/v1").unwrap_or(route);
    let model = route.strip_prefix("/models").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    assert!(model || method == Method::POST, "{method} {path}");
    assert!(
        model
            || ["/messages", "/messages/count_tokens", "/chat/completions", "/responses", "/embeddings"]
                .contains(&route),
        "{method} {path}"
    );
    let unmetered = model || route == "/messages/count_tokens";
    assert_eq!(metered.is_none(), unmetered, "{method} {path}");
}

/// A request that is believed goes where its connection goes, and says so in words that others read the same way.
pub fn host_header(data: &[u8]) {
    let mut input = Input::new(data);
    let tls = input.byte() & 1 == 1;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let meant = match parse_authority(&text(input.line())) {
        Ok((host, port)) => Meant::Place { host, port: port.unwrap_or(if tls { 443 } else { 80 }), must_be: None },
        Err(_) => Meant::Each,
    };
    let uri = text(input.line());
    let mut request = Request::new(());
    match uri.parse() {
        Ok(uri) => *request.uri_mut() = uri,
        Err(_) => return,
    }
    if let Ok(value) = HeaderValue::from_bytes(input.line()) {
        request.headers_mut().insert(HOST, value);
    }
    let connection =
        Connection { vault: vault(), meant, tls, disagreement: None, no_room: false, reached: Default::default() };
    let Ok(asked) = request::asked(&connection, &request) else { return };
    if let Meant::Place { host, port, .. } = &connection.meant {
        assert_eq!(asked.port, *port);
        let there = asked.host == *host || matches!(host, Host::Addr(addr) if asked.must_be == Some(*addr));
        assert!(there, "the connection is for {host}, the request for {}", asked.host);
    }
    let authority = asked.authority.to_str().expect("an authority is text");
    // The words go up as they are. Where another reader understands them at all, it is the same place.
    let scheme = if tls { "https" } else { "http" };
    if let Ok(url) = url::Url::parse(&format!("{scheme}://{authority}/")) {
        let host = url.host_str().and_then(|host| Host::parse(host).ok());
        assert_eq!(host, Some(asked.host), "`{authority}`");
        // Without a port it may be meant for any that the connection was made to.
        let named = url.port().or(parse_authority(authority).ok().and_then(|(_, port)| port));
        assert!(named.is_none_or(|port| port == asked.port), "`{authority}` at {}", asked.port);
    }
}

fn vault() -> Arc<Vault> {
    static VAULT: OnceLock<Arc<Vault>> = OnceLock::new();
    let new = || Vault::new(VaultConfig::default(), mpsc::channel(1).0).expect("a vault");
    VAULT.get_or_init(new).clone()
}
