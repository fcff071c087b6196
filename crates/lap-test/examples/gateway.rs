//! A gateway to play with from a shell: prints its address and key, serves until stdin ends, then prints what came in.

use std::io::{Read, Write};

use lap_test::ca::TestCa;
use lap_test::gateway::Gateway;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let ca = TestCa::new("lap test gateway");
    let gateway = Gateway::start(&ca).await;
    writeln!(std::io::stdout(), "{} {}", gateway.http_url(), gateway.key())?;
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()))
        .await
        .expect("reading does not panic")?;
    for request in gateway.requests() {
        writeln!(std::io::stdout(), "{} {} {} {}", request.method, request.path, request.status, request.json())?;
    }
    Ok(())
}
