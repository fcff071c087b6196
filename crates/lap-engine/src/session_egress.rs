//! The egress lists of one live session: changed, sent to its vault, and waited for until the vault says that it has them.

use std::time::Duration;

use lap_api::link::ServerToSidecar;
use lap_domain::egress::{ListsEdit, SessionLists};
use lap_domain::ids::SessionId;
use lap_domain::session::Session;
use tokio::sync::mpsc;

use crate::sessions::SessionView;
use crate::{Engine, EngineError, error, now, whole};

/// A vault takes lists in a moment. Beyond this its sidecar is away, or the server's own log of it is far behind: whoever asked
/// should hear that the old lists may still hold.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(5);

impl Engine {
    /// Changes where a live session's sandbox may go. Returns once its vault judges by the new lists and has closed what they
    /// close, or with [`EngineError::EgressPending`] when it has not said so in time; the lists are stored then all the same.
    pub async fn change_egress(&self, id: &SessionId, edit: ListsEdit) -> Result<SessionView, EngineError> {
        let (engine, id) = (self.clone(), id.clone());
        whole(async move {
            let revision = engine.store_and_send_lists(&id, edit).await?;
            match tokio::time::timeout(CONFIRM_DEADLINE, engine.lists_in_force(&id, revision)).await {
                Ok(confirmed) => confirmed?,
                Err(_) => return Err(EngineError::EgressPending { waited_s: CONFIRM_DEADLINE.as_secs() }),
            }
            engine.session(&id).await
        })
        .await
    }

    /// Answers with the revision of the new lists.
    async fn store_and_send_lists(&self, id: &SessionId, edit: ListsEdit) -> Result<u64, EngineError> {
        self.inner.store.session(id).await?;
        // The boot message or a greeting may be on its way: lists that were read later never go down earlier.
        let _order = self.inner.live.order(id, now()).lock_owned().await;
        let change = |lists: &SessionLists| lists.changed(edit);
        let lists = self.inner.store.change_session_lists(id, change).await?.map_err(EngineError::Invalid)?;
        let revision = lists.revision;
        if let Some(link) = self.inner.live.link_for_lists(id) {
            let _ = link.send(message(lists)).await;
        }
        Ok(revision)
    }

    /// Waits until the session's vault has said that it has this revision or a newer one.
    async fn lists_in_force(&self, id: &SessionId, revision: u64) -> Result<(), EngineError> {
        let mut newest = self.inner.store.subscribe(id);
        loop {
            newest.borrow_and_update();
            if self.inner.store.session_lists(id).await?.in_force >= revision {
                return Ok(());
            }
            let session = self.inner.store.session(id).await?;
            if !session.state.wants_sandbox() {
                return Err(error::not_ready(&session.state));
            }
            // The bell goes away with a deleted session; the next look says so.
            let _ = newest.changed().await;
        }
    }

    /// A sidecar that is back gets lists that were changed while it was away. The caller holds the session's order.
    pub(crate) async fn lists_down(
        &self,
        session: &Session,
        known: u64,
        to: &mpsc::Sender<ServerToSidecar>,
    ) -> Result<(), EngineError> {
        let lists = self.inner.store.session_lists(&session.id).await?;
        if lists.revision > known {
            let _ = to.send(message(lists)).await;
        }
        Ok(())
    }
}

fn message(lists: SessionLists) -> ServerToSidecar {
    let SessionLists { allow_out, deny_out, revision, in_force: _ } = lists;
    ServerToSidecar::Egress { revision, allow_out, deny_out }
}
