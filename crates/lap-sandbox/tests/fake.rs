//! The fake is a backend like any other.

use lap_sandbox::conformance;
use lap_sandbox::fake::FakeBackend;

#[tokio::test]
async fn the_fake_conforms() {
    conformance::all(&FakeBackend::new()).await;
}
