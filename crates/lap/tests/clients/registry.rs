//! One host that is every registry: just enough of PyPI, npm, crates.io, a Go proxy and S3 that their clients have something
//! to ask for.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use lap_test::ca::TestCa;
use lap_test::web::{self, Body, Running};
use serde_json::json;

pub const HOST: &str = "clients.test";

/// A request as it came in.
#[derive(Debug, Clone)]
pub struct Seen {
    _path: String,
    _headers: HeaderMap,
}

pub struct Registry {
    running: Running,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Registry {
    /// Starts it; `/tools.tar` is that archive.
    pub async fn start(ca: &TestCa, tools: Bytes) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let tls = ca.server_config(&[HOST.to_owned()], &["h2", "http/1.1"]);
        let serving = seen.clone();
        let running = web::serve(Some(tls), move |request: Request<Incoming>| {
            let (seen, tools) = (serving.clone(), tools.clone());
            async move { answer(request, &seen, tools) }
        });
        Self { running: running.await.expect("a free port on 127.0.0.1"), seen }
    }

    pub fn port(&self) -> u16 {
        self.running.address.port()
    }

    pub fn requests(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn answer(request: Request<Incoming>, seen: &Mutex<Vec<Seen>>, tools: Bytes) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let note = Seen { _path: path.clone(), _headers: request.headers().clone() };
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(note);
    let text = |kind: &'static str, body: String| web::text(StatusCode::OK, kind, body);
    match path.trim_end_matches('/') {
        "/hello" => text("text/plain", "good day".into()),
        "/tools.tar" => web::text(StatusCode::OK, "application/x-tar", tools),
        "/pypi/simple/lapdemo" => text(
            "text/html",
            "<!DOCTYPE html><html><body><a href=\"../../lapdemo-1.2.3-py3-none-any.whl\" data-dist-info-metadata=\"true\" \
             data-core-metadata=\"true\">lapdemo-1.2.3-py3-none-any.whl</a></body></html>"
                .into(),
        ),
        "/pypi/lapdemo-1.2.3-py3-none-any.whl.metadata" => {
            text("text/plain", "Metadata-Version: 2.1\nName: lapdemo\nVersion: 1.2.3\n".into())
        }
        "/npm/lapdemo" => web::json(
            StatusCode::OK,
            &json!({
                "name": "lapdemo", "dist-tags": { "latest": "1.2.3" },
                "versions": { "1.2.3": { "name": "lapdemo", "version": "1.2.3", "dist": { "tarball": "https://clients.test/npm/x.tgz" } } },
            }),
        ),
        "/cargo/config.json" => {
            web::json(StatusCode::OK, &json!({ "dl": "https://clients.test/cargo/dl", "api": "https://clients.test/cargo" }))
        }
        "/cargo/api/v1/crates" => web::json(
            StatusCode::OK,
            &json!({ "crates": [{ "name": "lapdemo", "max_version": "1.2.3", "description": "a demo" }], "meta": { "total": 1 } }),
        ),
        "/go/clients.test/lapdemo/@v/v1.2.3.info" => {
            web::json(StatusCode::OK, &json!({ "Version": "v1.2.3", "Time": "2026-01-01T00:00:00Z" }))
        }
        "/go/clients.test/lapdemo/@v/v1.2.3.mod" => text("text/plain", "module clients.test/lapdemo\n".into()),
        "/go/clients.test/lapdemo/@v/list" => text("text/plain", "v1.2.3\n".into()),
        "/s3" => text(
            "application/xml",
            "<?xml version=\"1.0\"?><ListAllMyBucketsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Buckets><Bucket>\
             <Name>the-bucket</Name></Bucket></Buckets></ListAllMyBucketsResult>"
                .into(),
        ),
        _ => web::text(StatusCode::NOT_FOUND, "text/plain", "there is no such thing"),
    }
}
