//! What can run here.

use axum::Json as Answer;
use axum::extract::State;
use lap_api::list::List;
use lap_api::platform::Harness;

use crate::App;
use crate::convert;
use crate::sessions::whole;

/// `GET /harnesses`
pub(crate) async fn list(State(app): State<App>) -> Answer<List<Harness>> {
    let harnesses = app.engine.harnesses().await;
    Answer(whole(harnesses.into_iter().map(convert::harness).collect()))
}
