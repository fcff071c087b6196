use lap_sandbox::conformance;

use crate::kit::Kit;

#[tokio::test(flavor = "multi_thread")]
async fn the_local_backend_conforms() {
    let kit = Kit::new().await;
    conformance::all(&kit.backend).await;
}
