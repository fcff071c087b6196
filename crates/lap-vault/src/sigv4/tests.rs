//! The published vectors: AWS's SigV4 test suite and the examples of the S3 documentation.

use http::HeaderMap;

use super::Stated;
use super::canonical::{Form, Message, payload_of, signature};

/// The suite's.
const SUITE: (&str, &str, &str) =
    ("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "20150830/us-east-1/service/aws4_request", "20150830T123600Z");
/// Those of the S3 documentation.
const S3: (&str, &str, &str) =
    ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "20130524/us-east-1/s3/aws4_request", "20130524T000000Z");

/// Whether the request (`METHOD target`, then headers, each a line) has this signature under one of the forms, and the form of
/// an unsigned change has not.
#[track_caller]
fn check((secret, scope, time): (&str, &str, &str), request: &str, body: &str, expected: &str) {
    let mut lines = request.lines().map(str::trim);
    let (method, target) = lines.next().and_then(|line| line.split_once(' ')).expect("METHOD target");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').expect("name: value");
        let name: http::HeaderName = name.parse().expect("a name");
        headers.append(name, value.trim().parse().expect("a value"));
    }
    let mut signed: Vec<String> = headers.keys().map(ToString::to_string).collect();
    signed.sort();
    let authority = headers["host"].to_str().expect("text").to_owned();
    let payload = payload_of(body.as_bytes());
    let message = |path, signed| Message {
        method,
        path,
        query,
        authority: &authority,
        headers: &headers,
        signed,
        payload: &payload,
    };
    let of = |message: &Message<'_>| -> Vec<String> {
        Form::all().filter_map(|form| Some(signature(secret, scope, time, &message.digest(form)?))).collect()
    };
    let found = of(&message(path, &signed));
    assert!(found.iter().any(|one| one == expected), "{request}: {found:?}");
    assert!(!of(&message("/elsewhere", &signed)).iter().any(|one| one == expected));
    let missing = [signed.clone(), vec!["x-not-there".to_owned()]].concat();
    assert!(of(&message(path, &missing)).is_empty());
}

const SUITE_HEADERS: &str = "host: example.amazonaws.com\nx-amz-date: 20150830T123600Z";

#[track_caller]
fn check_target(line: &str, expected: &str) {
    check(SUITE, &format!("{line}\n{SUITE_HEADERS}"), "", expected);
}

#[test]
fn paths_and_queries_of_the_suite() {
    let vanilla = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
    check_target("GET /", vanilla);
    check_target("GET //", vanilla);
    check_target("GET /./", vanilla);
    check_target("GET /example/..", vanilla);
    check_target("GET /example1/example2/../..", vanilla);
    check_target("POST /", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b");
    let utf8 = "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85";
    check_target("GET /ሴ", utf8);
    check_target("GET /%E1%88%B4", utf8);
    check_target("GET /example%20space/", "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741");
    check_target(
        "GET /-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
        "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
    );
    check_target(
        "GET /?Param2=value2&Param1=value1",
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    );
    check_target("GET /?ሴ=bar", "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04");
}

#[test]
fn headers_and_bodies_of_the_suite() {
    check(
        SUITE,
        "GET /\nhost: example.amazonaws.com\nmy-header1:  value1\nmy-header2: \"a   b   c\"\nx-amz-date: 20150830T123600Z",
        "",
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
    );
    check(
        SUITE,
        "GET /\nhost: example.amazonaws.com\nmy-header1: value2\nmy-header1: value2\nmy-header1: value1\nx-amz-date: 20150830T123600Z",
        "",
        "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
    );
    check(
        SUITE,
        &format!("POST /\ncontent-type: application/x-www-form-urlencoded\n{SUITE_HEADERS}"),
        "Param1=value1",
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    );
    let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
    check(
        SUITE,
        &format!("POST /\n{SUITE_HEADERS}\nx-amz-security-token: {token}"),
        "",
        "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
    );
}

#[test]
fn examples_of_s3() {
    let empty = payload_of(b"");
    let headers =
        format!("host: examplebucket.s3.amazonaws.com\nx-amz-content-sha256: {empty}\nx-amz-date: 20130524T000000Z");
    check(
        S3,
        &format!("GET /test.txt\nrange: bytes=0-9\n{headers}"),
        "",
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    );
    check(
        S3,
        &format!("GET /?lifecycle\n{headers}"),
        "",
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
    );
    check(
        S3,
        &format!("GET /?max-keys=2&prefix=J\n{headers}"),
        "",
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
    );
    let body = "Welcome to Amazon S3.";
    let put = format!(
        "PUT /test$file.text\ndate: Fri, 24 May 2013 00:00:00 GMT\nhost: examplebucket.s3.amazonaws.com\n\
         x-amz-content-sha256: {}\nx-amz-date: 20130524T000000Z\nx-amz-storage-class: REDUCED_REDUNDANCY",
        payload_of(body.as_bytes())
    );
    check(S3, &put, body, "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
}

#[track_caller]
fn check_stated(value: &str, expected: Option<(&str, &[&str], &str)>) {
    let expected = expected.map(|(scope, signed, signature)| Stated {
        scope: scope.to_owned(),
        signed: signed.iter().map(|name| (*name).to_owned()).collect(),
        signature: signature.to_owned(),
    });
    assert_eq!(Stated::parse(value), expected, "{value}");
}

#[test]
fn reads_authorization_headers() {
    let expected = Some(("d/r/s/aws4_request", &["host", "x-amz-date"][..], "ff"));
    check_stated(
        "AWS4-HMAC-SHA256 Credential=id/d/r/s/aws4_request, SignedHeaders=host;x-amz-date, Signature=ff",
        expected,
    );
    check_stated(
        "AWS4-HMAC-SHA256 Credential=id/d/r/s/aws4_request,SignedHeaders=host;x-amz-date,Signature=ff",
        expected,
    );
    check_stated("AWS4-HMAC-SHA256 Credential=id, SignedHeaders=host, Signature=ff", None);
    check_stated("AWS4-HMAC-SHA256 Credential=id/d, SignedHeaders=host", None);
    check_stated("Bearer x", None);
}
