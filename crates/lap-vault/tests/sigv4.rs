//! Requests to AWS: signed inside with stubs, signed anew by the vault, and nothing else ever done with the secret key. The
//! client is curl; the server's side is checked the way AWS checks it.
#![allow(clippy::unwrap_used)]

mod kit;

use aws_lc_rs::{digest, hmac};
use kit::{Kit, Seen};

const ID: &str = "AKIAIOSFODNN7EXAMPLE";
const KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const SESSION: &str = "IQoJb3JpZ2luX2VjEXAMPLE//////////wEaCXVzLWVhc3QtMSJHMEUCIQ==";
const CREDENTIALS: [&str; 3] = [
    "AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE @ api.test",
    "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY @ api.test",
    "AWS_SESSION_TOKEN=IQoJb3JpZ2luX2VjEXAMPLE//////////wEaCXVzLWVhc3QtMSJHMEUCIQ== @ api.test",
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the service `service` says to a request: whether `key` signed it.
fn is_signed(seen: &Seen, service: &str, key: &str) -> bool {
    let stated = seen.header("authorization");
    let part = |name: &str| stated.split(&format!("{name}=")).nth(1).unwrap().split(',').next().unwrap();
    let scope = part("Credential").split_once('/').unwrap().1;
    let (method, target) = seen.line.split_once(' ').unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = if service == "s3" { path.to_owned() } else { path.replace('%', "%25") };
    let mut pairs: Vec<String> = query
        .split('&')
        .filter(|p| !p.is_empty())
        .map(|p| if p.contains('=') { p.to_owned() } else { format!("{p}=") })
        .collect();
    pairs.sort();
    let host = if seen.header("host").is_empty() { "api.test" } else { seen.header("host") };
    let headers: String = part("SignedHeaders")
        .split(';')
        .map(|name| format!("{name}:{}\n", if name == "host" { host } else { seen.header(name) }))
        .collect();
    let body = hex(digest::digest(&digest::SHA256, &seen.body).as_ref());
    let payload = seen.headers.get("x-amz-content-sha256").map_or(body, |v| v.to_str().unwrap().to_owned());
    let canonical = format!("{method}\n{path}\n{}\n{headers}\n{}\n{payload}", pairs.join("&"), part("SignedHeaders"));
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{}\n{scope}\n{}",
        seen.header("x-amz-date"),
        hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref())
    );
    let sign =
        |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec();
    let key = scope.split('/').fold(format!("AWS4{key}").into_bytes(), |key, part| sign(&key, part));
    hex(&sign(&key, &to_sign)) == part("Signature")
}

/// curl through the vault, signing with stubs; what it prints, heads included.
async fn curl(kit: &Kit, service: &str, session: bool, arguments: &[&str]) -> String {
    let (id, key, token) =
        (kit.stub("AWS_ACCESS_KEY_ID"), kit.stub("AWS_SECRET_ACCESS_KEY"), kit.stub("AWS_SESSION_TOKEN"));
    let ca = std::env::temp_dir().join(format!("lap-sigv4-{}-{}.pem", kit.proxy.port(), std::process::id()));
    std::fs::write(&ca, kit.vault.ca_pem()).unwrap();
    let mut command = tokio::process::Command::new("curl");
    command.args(["-sS", "-i", "--suppress-connect-headers", "--user", &format!("{id}:{key}"), "--cacert"]).arg(&ca);
    command.args(["-x", &format!("http://{}", kit.proxy), "--aws-sigv4", &format!("aws:amz:eu-central-1:{service}")]);
    if session {
        command.args(["-H", &format!("x-amz-security-token: {token}")]);
    }
    let output = command.args(arguments).env_remove("http_proxy").env_remove("https_proxy").output().await.unwrap();
    std::fs::remove_file(ca).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_with_stubs_arrives_signed_with_the_real_key() {
    let mut kit = Kit::new(&CREDENTIALS).await;
    let cases: [(&str, bool, &[&str]); 8] = [
        ("s3", false, &["https://api.test/bucket/a%20key"]),
        ("s3", true, &["-H", "range: bytes=0-9", "https://api.test/bucket/key"]),
        ("s3", false, &["--http1.1", "-X", "PUT", "-d", "content", "https://api.test/bucket/key"]),
        (
            "s3",
            false,
            &["-X", "PUT", "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "-d", "content", "https://api.test/k"],
        ),
        ("sts", true, &["-d", "Action=GetCallerIdentity&Version=2011-06-15", "https://api.test/"]),
        ("dynamodb", false, &["--http1.1", "-H", "x-amz-target: DynamoDB.ListTables", "-d", "{}", "https://api.test/"]),
        ("s3", false, &["-I", "https://api.test/bucket/key"]),
        ("lambda", false, &["-X", "DELETE", "https://api.test/functions/f?Marker=1&Qualifier=2"]),
    ];
    for (service, session, arguments) in cases {
        let answer = curl(&kit, service, session, arguments).await;
        assert!(answer.contains(" 200"), "{service} {arguments:?}: {answer}");
        assert!(!answer.contains(ID) && !answer.contains(SESSION), "nothing comes back: {answer}");
        let seen = kit.seen().remove(0);
        assert!(seen.header("authorization").contains(&format!("Credential={ID}/")), "{seen:?}");
        assert!(is_signed(&seen, service, KEY), "{service} {arguments:?}: {seen:?}");
        assert!(!is_signed(&seen, service, kit.stub("AWS_SECRET_ACCESS_KEY")));
        assert_eq!(seen.header("x-amz-security-token"), if session { SESSION } else { "" });
        assert_eq!(seen.header("range").is_empty(), !arguments.contains(&"range: bytes=0-9"), "ranges stay");
        let mut names = vec!["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
        names.extend(session.then_some("AWS_SESSION_TOKEN"));
        assert_eq!(kit.record().await.credentials, names);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_keep_their_lengths() {
    let kit = Kit::new(&CREDENTIALS).await;
    assert_ne!(kit.stub("AWS_ACCESS_KEY_ID").len(), ID.len());
    let answer = curl(&kit, "s3", false, &["--http1.1", "https://api.test/bucket/key"]).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}", body.len())), "{answer}");
    assert!(body.contains(&format!("Credential={}", &kit.stub("AWS_ACCESS_KEY_ID")[..ID.len()])), "{answer}");
}

/// Sends a request with this Authorization header, `{id}` and `{key}` being stubs.
async fn refused(
    kit: &Kit,
    host: &str,
    path: &str,
    headers: &[(&str, &str)],
    authorization: &str,
) -> (u16, String, String) {
    let fill = |text: &str| {
        text.replace("{id}", kit.stub("AWS_ACCESS_KEY_ID")).replace("{key}", kit.stub("AWS_SECRET_ACCESS_KEY"))
    };
    let authorization = fill(authorization);
    let mut all = vec![("authorization", authorization.as_str()), ("x-amz-date", "20260102T030405Z")];
    all.extend_from_slice(headers);
    let reply = kit.get(host, &fill(path), &all).await;
    (reply.status, reply.header("x-lap-blocked").to_owned(), reply.body)
}

#[tokio::test]
async fn what_cannot_be_signed_anew_is_refused_with_a_reason() {
    let kit = Kit::new(&CREDENTIALS).await;
    let signed =
        "AWS4-HMAC-SHA256 Credential={id}/20260102/r/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=00";
    for (host, path, authorization, code, word) in [
        ("api.test", "/", signed, "signature", "was not signed with the stub"),
        ("api.test", "/", "AWS4-ECDSA-P256-SHA256 Credential={id}/20260102/s3/aws4_request", "signature", "SigV4a"),
        ("api.test", "/k?X-Amz-Credential={id}%2F20260102&X-Amz-Signature=00", "x", "signature", "in the query"),
        ("other.test", "/", signed, "misdirected_stub", "may not go to other.test"),
        ("api.test", "/", "Bearer {key}", "misdirected_stub", "never travels"),
        ("other.test", "/", "Bearer {key}", "misdirected_stub", "never travels"),
    ] {
        let (status, blocked, body) = refused(&kit, host, path, &[], authorization).await;
        assert_eq!((status, blocked.as_str()), (403, code), "{authorization}: {body}");
        assert!(body.contains(word), "{authorization}: {body}");
    }
    assert!(kit.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_signed_in_chunks_and_very_long_ones_are_refused() {
    let kit = Kit::new(&CREDENTIALS).await;
    let chunks = "x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
    let answer =
        curl(&kit, "s3", false, &["--http1.1", "-X", "PUT", "-H", chunks, "-d", "x", "https://api.test/k"]).await;
    assert!(answer.contains("x-lap-blocked: signature") && answer.contains("in chunks"), "{answer}");
    let signed = "AWS4-HMAC-SHA256 Credential=AKIAOTHER/20260102/r/s3/aws4_request, SignedHeaders=host, Signature=00";
    let headers = [("authorization", signed), ("x-amz-date", "20260102T030405Z")];
    // Over HTTP/2 an answer can come before the body has gone up.
    let request = kit::request("POST", "https://api.test/", &headers, vec![0; 17 << 20]);
    let reply = kit::reply(kit.http2("api.test").await.send_request(request).await.unwrap()).await;
    assert_eq!(reply.blocked(), (403, "signature"));
    assert!(reply.body.contains("16 MiB"), "{}", reply.body);
    assert!(kit.seen().is_empty());
}

#[tokio::test]
async fn requests_signed_with_keys_of_their_own_pass_as_they_are() {
    let kit = Kit::new(&CREDENTIALS).await;
    let signed = "AWS4-HMAC-SHA256 Credential=AKIAOTHER/20260102/r/s3/aws4_request, SignedHeaders=host, Signature=00";
    let headers = [("authorization", signed), ("x-amz-date", "20260102T030405Z")];
    let reply = kit.post("api.test", "/", &headers, "a body that was read and goes on").await;
    assert_eq!(reply.status, 200);
    let seen = kit.seen().remove(0);
    assert_eq!(
        (seen.header("authorization"), seen.body.as_slice()),
        (signed, &b"a body that was read and goes on"[..])
    );
}
