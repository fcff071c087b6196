//! The server's end of the links that sidecars open: who is calling, what the sandbox did, what it should do.
//!
//! A sidecar proves itself with the boot token of its incarnation. What it reports is stored, then acknowledged, in that
//! order; a report that cannot be stored ends the link, and the sidecar brings it again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lap_api::link::{
    BUDGETS_SINCE, CHANNELS_SINCE, Hello, LogEntry, OLDEST_PROTOCOL, PROTOCOL, Report, ServerToSidecar, SidecarToServer,
};
use lap_domain::ids::SessionId;
use lap_domain::session::{Session, SessionState};
use lap_domain::time::Timestamp;
use lap_link::{Frame, MAX_FRAME_BYTES, Reader, Writer};
use lap_store::LogItem;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::channels::ChannelLink;
use crate::{Engine, EngineError, bringup, log, now};

/// A caller that does not say hello within this time is dropped.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// A sidecar takes its messages as they come; one that does not for this long is hung, and its link ends.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// Entries stored in one transaction: what has arrived meanwhile goes along, up to this many.
const BATCH: usize = 256;

/// Messages to a sidecar that wait for its socket. When full, whoever sends waits.
const OUTBOX: usize = 64;

/// One entry of a sandbox's log, on its way to the database.
struct Entry {
    seq: u64,
    at_ms: i64,
    entry: LogEntry,
}

impl Engine {
    /// Takes links until told to stop.
    pub(crate) async fn serve_links(&self, listener: UnixListener, stop: CancellationToken) {
        let mut links = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = links.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let (engine, (from, to)) = (self.clone(), stream.into_split());
                        links.spawn(async move { engine.serve_link(from, to).await });
                    }
                    Err(problem) => {
                        // Out of descriptors, most likely: pause instead of spinning.
                        tracing::error!(problem = &problem as &dyn std::error::Error, "could not accept a link");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        links.shutdown().await;
    }

    /// One link, from hello to its end.
    async fn serve_link(&self, from: impl AsyncRead + Unpin, to: impl AsyncWrite + Unpin) {
        let (mut reader, mut writer) = (Reader::new(from, MAX_FRAME_BYTES), Writer::new(to));
        let Ok(Ok(Some(SidecarToServer::Hello(hello)))) =
            tokio::time::timeout(HELLO_DEADLINE, reader.next::<SidecarToServer>()).await
        else {
            tracing::warn!("a link was opened without a proper hello");
            return;
        };
        match self.admit(&hello).await {
            Ok(Some(session)) => {
                if let Err(problem) = self.converse(&session, hello, &mut reader, &mut writer).await {
                    tracing::warn!(session.id = %session.id, problem = &problem as &dyn std::error::Error, "a link ended");
                }
            }
            Ok(None) => {
                tracing::warn!(sandbox.id = %hello.sandbox_id, "a sandbox nobody wants called; telling it to stop");
                let _ = writer.send(&ServerToSidecar::Stop).await;
            }
            Err(problem) => {
                tracing::error!(problem = &problem as &dyn std::error::Error, "could not check a sidecar's hello");
            }
        }
    }

    /// The session this hello speaks for, if it is genuine and still wanted.
    async fn admit(&self, hello: &Hello) -> Result<Option<Session>, EngineError> {
        let Some((session, incarnation)) = hello.sandbox_id.rsplit_once('-') else { return Ok(None) };
        let (id, Ok(incarnation)) = (SessionId::new(session), incarnation.parse::<u32>()) else { return Ok(None) };
        let (matches, session) = tokio::join!(
            self.inner.store.boot_token_matches(&id, incarnation, &hello.boot_token),
            self.inner.store.session(&id)
        );
        if !(OLDEST_PROTOCOL..=PROTOCOL).contains(&hello.protocol) || !matches? {
            return Ok(None);
        }
        match session {
            Ok(session) if session.incarnation == incarnation && session.state.wants_sandbox() => Ok(Some(session)),
            Ok(_) | Err(lap_store::StoreError::NotFound { .. }) => Ok(None),
            Err(problem) => Err(problem.into()),
        }
    }

    async fn converse<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &self,
        session: &Session,
        hello: Hello,
        reader: &mut Reader<R>,
        writer: &mut Writer<W>,
    ) -> Result<(), EngineError> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let (to, mut outbox) = mpsc::channel(OUTBOX);
        let stored = self.inner.store.log_seq(&session.id, session.incarnation).await?;
        if hello.log_head < stored {
            return Err(EngineError::Internal("the sidecar's log is shorter than what is stored of it".into()));
        }
        // Nobody sends anything before the greeting.
        let order = self.inner.live.order(&session.id, now()).lock_owned().await;
        let (channels, mut channel_frames) = ChannelLink::new(hello.protocol >= CHANNELS_SINCE);
        let over = self.inner.live.link_up(&session.id, number, to.clone(), channels.clone(), &hello, now());
        let sending = async {
            // In the words of a sidecar that is older than this server.
            let welcome = ServerToSidecar::Welcome { protocol: hello.protocol, resume_after: stored };
            let mut next = Some(Frame::Message(welcome));
            while let Some(frame) = next {
                match tokio::time::timeout(WRITE_DEADLINE, writer.frame(&frame)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(problem)) => return Err(EngineError::Internal(Box::new(problem))),
                    Err(_) => return Err(EngineError::Internal("the sidecar does not take its messages".into())),
                }
                next = loop {
                    tokio::select! {
                        message = outbox.recv() => match message {
                            // It would end the link, and it could do nothing about limits.
                            Some(ServerToSidecar::Budget(_)) if hello.protocol < BUDGETS_SINCE => {}
                            message => break message.map(Frame::Message),
                        },
                        Some(frame) = channel_frames.recv() => break Some(frame),
                    }
                };
            }
            Ok(())
        };
        let greeting = async {
            self.greet(session, &hello, &to).await?;
            drop(order);
            // A turn may have waited for this link.
            self.dispatch(&session.id).await;
            Ok(())
        };
        let receiving = async {
            if hello.booted {
                // What it has to say of a turn counts after it is known which turn it has.
                greeting.await?;
                self.receive(session, reader, to.clone(), &channels).await
            } else {
                let receive = self.receive(session, reader, to.clone(), &channels);
                tokio::try_join!(greeting, receive).map(|_| ())
            }
        };
        let end = tokio::select! {
            end = sending => end,
            end = receiving => end,
            () = over.cancelled() => Ok(()),
        };
        channels.over();
        self.inner.live.link_down(&session.id, number, now());
        self.inner.wake.notify_one();
        end
    }

    /// What a fresh link gets first: the boot message, or the turn that may have been lost on the way.
    async fn greet(
        &self,
        session: &Session,
        hello: &Hello,
        to: &mpsc::Sender<ServerToSidecar>,
    ) -> Result<(), EngineError> {
        if hello.booted {
            self.grants_down(session, to).await?;
            let budget = self.budget_of(session).await?;
            // One that has limits must hear that there are none any more; one that never heard of limits need not.
            if hello.limited || !budget.allowances.is_empty() {
                let _ = to.send(ServerToSidecar::Budget(budget)).await;
            }
            if let Some(known) = hello.egress_revision {
                self.lists_down(session, known, to).await?;
            }
        } else {
            match bringup::boot(self, session).await {
                Ok(Some(boot)) => {
                    let _ = to.send(ServerToSidecar::Boot(Box::new(boot))).await;
                }
                Ok(None) => {
                    // The session's variables are lost: the reconciler fails it with the reason.
                    self.inner.wake.notify_one();
                    return Ok(());
                }
                // The database may answer the next time; what is wrong with the agent stays wrong.
                Err(problem @ EngineError::Unavailable(_)) => return Err(problem),
                Err(problem) => {
                    let reason = lap_domain::chain::chain(&problem);
                    let event = lap_domain::session::SessionEvent::BootFailed { reason };
                    self.move_session(&session.id, session.incarnation, event).await?;
                    return Err(problem);
                }
            }
        }
        match self.inner.store.sent_turn(&session.id).await? {
            Some(sent) if hello.last_turn_id.as_deref() != Some(sent.turn.id.as_str()) => {
                self.hand_over(&session.id, sent, to).await?;
            }
            Some(sent) => self.inner.live.turn_running(&session.id, sent.turn.id, now()),
            None => {}
        }
        Ok(())
    }

    /// Takes what comes in. Channels never wait for the database: what is to be stored is stored beside them.
    async fn receive<R: AsyncRead + Unpin>(
        &self,
        session: &Session,
        reader: &mut Reader<R>,
        to: mpsc::Sender<ServerToSidecar>,
        channels: &ChannelLink,
    ) -> Result<(), EngineError> {
        let (entries_in, entries) = mpsc::channel(BATCH);
        let reading = async move {
            loop {
                let frame = reader.frame::<SidecarToServer>().await;
                match frame.map_err(|problem| EngineError::Internal(Box::new(problem)))? {
                    None => return Ok(()),
                    Some(Frame::Data(data)) => channels.data(data),
                    Some(Frame::Message(SidecarToServer::Channel(message))) => channels.take(message),
                    Some(Frame::Message(SidecarToServer::Log { seq, at_ms, entry })) => {
                        // Closed when storing has failed, and then that is the reason of the end.
                        if entries_in.send(Entry { seq, at_ms, entry }).await.is_err() {
                            return Ok(());
                        }
                    }
                    Some(Frame::Message(SidecarToServer::Hello(_))) => {
                        return Err(EngineError::Internal("a second hello on one link".into()));
                    }
                }
            }
        };
        tokio::try_join!(reading, self.store_entries(session, entries, to)).map(drop)
    }

    async fn store_entries(
        &self,
        session: &Session,
        mut entries: mpsc::Receiver<Entry>,
        to: mpsc::Sender<ServerToSidecar>,
    ) -> Result<(), EngineError> {
        let mut creating = session.state == SessionState::Creating;
        let mut batch = Vec::new();
        while entries.recv_many(&mut batch, BATCH).await > 0 {
            let mut items = Vec::new();
            let (mut guest_spoke, mut booted, mut spent) = (false, false, false);
            for Entry { seq, at_ms, entry } in batch.drain(..) {
                guest_spoke |= matches!(&entry, LogEntry::Guest(_));
                booted |= matches!(&entry, LogEntry::Booted);
                spent |= matches!(&entry, LogEntry::Metered(_));
                let ready = matches!(&entry, LogEntry::Guest(Report::Ready));
                let writes = log::writes(entry, |oom| log::sandbox_ended(creating, oom));
                creating &= !ready;
                items.push(LogItem { seq, at: Timestamp(at_ms), writes });
            }
            let appended = self.inner.store.append_log(&session.id, session.incarnation, items).await?;
            for refused in &appended.refused {
                tracing::warn!(session.id = %session.id, "refused what a sandbox reported: {refused}");
            }
            if to.send(ServerToSidecar::Ack { seq: appended.seq }).await.is_err() {
                return Ok(());
            }
            if guest_spoke {
                self.inner.live.life(&session.id, now());
            }
            if booted {
                // The sidecar holds the variables now: they are forgotten here.
                self.inner.live.booted(&session.id);
            }
            if spent {
                self.spent(session).await;
            }
            self.after_log(session, &appended).await?;
        }
        Ok(())
    }

    /// What the new entries make possible or necessary.
    async fn after_log(&self, session: &Session, appended: &lap_store::Appended) -> Result<(), EngineError> {
        if appended.turn_over {
            self.inner.live.turn_over(&session.id);
            match self.inner.store.touch(&session.id, now()).await {
                // Deleted meanwhile; the rest of its log is of no interest to anybody.
                Ok(()) | Err(lap_store::StoreError::NotFound { .. }) => {}
                Err(problem) => return Err(problem.into()),
            }
        }
        match appended.session.state {
            SessionState::Ready => self.dispatch(&session.id).await,
            SessionState::Creating => {}
            SessionState::Failed { .. } | SessionState::Dead { .. } => {
                self.inner.live.forget_vars(&session.id);
                self.inner.wake.notify_one();
            }
        }
        Ok(())
    }

    /// Sends what credentials mean now to a sandbox that is up. Without a link there is nothing to do: the next greeting
    /// says it.
    pub(crate) async fn send_grants(&self, session: &Session) -> Result<(), EngineError> {
        let _order = self.inner.live.order(&session.id, now()).lock_owned().await;
        match self.inner.live.link(&session.id) {
            Some(link) => self.grants_down(session, &link).await,
            None => Ok(()),
        }
    }

    /// The caller holds the session's order, so that older grants never follow newer ones.
    async fn grants_down(&self, session: &Session, to: &mpsc::Sender<ServerToSidecar>) -> Result<(), EngineError> {
        if let Some(now) = bringup::credentials_of_agent(self, session).await? {
            let bringup::CredentialsNow { credentials, keep } = now;
            let _ = to.send(ServerToSidecar::Credentials { credentials, keep }).await;
        }
        Ok(())
    }
}
