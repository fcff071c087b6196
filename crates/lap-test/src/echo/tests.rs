use std::io::Read;

use super::*;
use crate::web::fetch;

#[tokio::test]
async fn echoes_over_every_protocol() {
    let ca = TestCa::new("test");
    let echo = Echo::start(&ca, &["other.test"]).await;
    for (url, alpn, version) in [
        (echo.http_url("echo.test"), "", "HTTP/1.1"),
        (echo.https_url("other.test"), "http/1.1", "HTTP/1.1"),
        (echo.https_url("127.0.0.1"), "h2", "HTTP/2.0"),
    ] {
        let request =
            Request::put(format!("{url}/some?where=1")).header("x-mine", "a").body(Bytes::from("hello")).unwrap();
        let tls = (!alpn.is_empty()).then(|| ca.client_config(&[alpn]));
        let answer = fetch(tls, request).await.unwrap();
        let seen: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(
            (&seen["method"], &seen["path"], &seen["body"]),
            (&json!("PUT"), &json!("/some?where=1"), &json!("hello"))
        );
        assert_eq!(seen["version"], version);
        assert!(seen["headers"].as_array().unwrap().contains(&json!(["x-mine", "a"])));
    }
    echo.wait_for(3).await;
    assert_eq!(echo.last().unwrap().header("x-mine"), Some("a"));
}

#[tokio::test]
async fn special_routes() {
    let ca = TestCa::new("test");
    let echo = Echo::start(&ca, &[]).await;
    let get = async |path: &str| {
        let request = Request::get(format!("{}{path}", echo.http_url("echo.test"))).body(Bytes::new()).unwrap();
        fetch(None, request).await.unwrap()
    };
    assert_eq!(get("/bytes/200000").await.body().len(), 200_000);
    assert_eq!(get("/status/418").await.status(), 418);
    let events = get("/sse?events=2").await;
    assert_eq!(events.body(), "id: 0\nevent: tick\ndata: {\"n\":0}\n\nid: 1\nevent: tick\ndata: {\"n\":1}\n\n");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&get("/gzip").await.body()[..]).read_to_string(&mut text).unwrap();
    assert!(text.contains("\"method\":\"GET\""));
    let upload = Request::post(format!("{}/upload", echo.http_url("x"))).body(Bytes::from(vec![1; 100_000])).unwrap();
    assert_eq!(fetch(None, upload).await.unwrap().body(), "{\"bytes\":100000}");
}
