use std::sync::Arc;

use lap_engine::{Engine, EngineConfig};
use lap_sandbox::Limits;
use lap_sandbox::fake::FakeBackend;
use lap_store::{EncryptionKey, Store};
use tokio::sync::Notify;

use super::*;

fn config(data_dir: std::path::PathBuf) -> EngineConfig {
    let limits = Limits { memory_bytes: 1, pids: 1, cpu_millis: 1, disk_bytes: 1, inodes: 1, tmp_bytes: 1 };
    EngineConfig {
        data_dir,
        limits,
        idle_timeout_ms: 1,
        turn_stall_timeout_ms: 1,
        gateway: None,
        private_allow: Vec::new(),
        resolve: Vec::new(),
        extra_ca_pem: None,
        passthrough: Vec::new(),
        outbound: None,
        require_binding: false,
        git_author: None,
        git_token: None,
        git_token_hosts: Vec::new(),
        repository_tokens: None,
        test_harnesses: true,
    }
}

#[tokio::test]
async fn a_caller_that_hangs_up_and_comes_again_finds_what_it_made() {
    let data = tempfile::tempdir().expect("a temporary folder can be made");
    let store = Store::open(&data.path().join("lap.db"), EncryptionKey::new(&[7; 32])).await.expect("a database");
    let engine = Engine::new(config(data.path().to_owned()), store, Arc::new(FakeBackend::new()), "fake");
    let app = App::new(engine, crate::ServerConfig { master_key: lap_domain::secret::Secret::new("key".to_owned()) });
    let key = || IdempotencyKey(Some("once".to_owned()));
    let id_of = |made: &&'static str| (*made).to_owned();
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let make = {
        let (begun, go_on) = (begun.clone(), go_on.clone());
        async move {
            begun.notify_one();
            go_on.notified().await;
            Ok("first")
        }
    };
    tokio::select! {
        _ = once(&app, "things", key(), &(), make, id_of) => panic!("it waits"),
        () = begun.notified() => {}
    }
    go_on.notify_one();
    match once(&app, "things", key(), &(), async { Ok("second") }, id_of).await {
        Ok(Made::Before(id)) => assert_eq!(id, "first"),
        Ok(Made::Now(made)) => panic!("made again: {made}"),
        Err(_) => panic!("refused"),
    }
}
