//! Hosts whose TLS passes unread: with the real certificate, judged by name and address, never swapped, and only under their
//! own TLS name.
#![allow(clippy::unwrap_used)]

mod kit;

use std::sync::Arc;

use kit::{Kit, reply, request};
use lap_domain::egress::{Entry, Policy};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};

const SECRET: &str = "ghp_0123456789abcdefghijklmnopqrstuv";
const TOKEN: &str = "KEY=ghp_0123456789abcdefghijklmnopqrstuv @ *.test";

async fn passing(entries: &[&str]) -> Kit {
    Kit::with(&[TOKEN], |grants| {
        grants.passthrough = entries.iter().map(|entry| Entry::parse(entry).unwrap()).collect();
    })
    .await
}

/// A request over TLS by a client that trusts the real certificate alone. None: it got no TLS connection.
async fn pinned(kit: &Kit, target: &str, sni: &str, stub: &str) -> Option<kit::Reply> {
    let stream = kit.connect(target).await.ok()?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(kit.upstream.ca_pem.as_bytes()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(sni.to_owned()).unwrap();
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    let headers = [("host", sni), ("authorization", stub)];
    Some(reply(sender.send_request(request("GET", "/", &headers, "")).await.unwrap()).await)
}

#[tokio::test]
async fn it_passes_unread_and_unswapped() {
    let mut kit = passing(&["api.test"]).await;
    let stub = kit.stub("KEY").to_owned();
    for target in ["api.test:443", "127.0.0.1:443"] {
        // An address stands for the name that the handshake names, if the name leads there.
        let answer = pinned(&kit, target, "api.test", &stub).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(kit.seen().remove(0).header("authorization"), stub, "nothing is swapped");
        let record = kit.record().await;
        assert_eq!((record.method.as_str(), record.host.as_str(), record.path.as_str()), ("TLS", "api.test:443", ""));
        assert_eq!((record.verdict.as_str(), record.detail.as_deref()), ("allowed", Some("passed through unread")));
        assert!(record.credentials.is_empty() && record.bytes_out > 0 && record.bytes_in > 0);
    }
    // Any other host is read and swapped as ever.
    assert!(pinned(&kit, "other.test:443", "other.test", &stub).await.is_none(), "the certificate is the vault's");
    kit.get("other.test", "/", &[("authorization", &stub)]).await;
    assert_eq!(kit.seen().remove(0).header("authorization"), SECRET);
}

#[tokio::test]
async fn without_its_own_name_nothing_passes() {
    let mut kit = passing(&["api.test"]).await;
    for sni in ["other.test", "evil.test", "127.0.0.1"] {
        // An address as the server's name means that the handshake names none.
        assert!(pinned(&kit, "api.test:443", sni, "x").await.is_none(), "{sni}");
        assert_eq!(kit.record().await.verdict, "misdirected", "{sni}");
    }
    // The name decides, not the hope: another host under the passing host's name is refused too.
    assert!(pinned(&kit, "other.test:443", "api.test", "x").await.is_none());
    assert!(pinned(&kit, "127.0.0.2:443", "api.test", "x").await.is_none(), "the name does not lead there");
    assert!(kit.seen().is_empty());
}

#[tokio::test]
async fn the_rules_hold() {
    let kit = passing(&["*.test"]).await;
    let deny = |host: &str| Policy::parse(&[], &[host.to_owned()], &[], &["127.0.0.0/8".to_owned()]).unwrap();
    kit.regrant(|grants| {
        grants.passthrough = vec![Entry::parse("*.test").unwrap()];
        grants.policy = deny("evil.test");
    });
    assert!(pinned(&kit, "evil.test:443", "evil.test", "x").await.is_none());
    assert!(kit.seen().is_empty());
    kit.regrant(|grants| {
        grants.passthrough = vec![Entry::parse("*.test").unwrap()];
        grants.policy = Policy::default();
    });
    assert!(pinned(&kit, "api.test:443", "api.test", "x").await.is_none(), "private addresses stay closed");
}
