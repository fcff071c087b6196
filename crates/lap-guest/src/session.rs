//! The guest's main loop: reads the link, starts bring-up once, and hands orders to the harness.

use std::collections::VecDeque;
use std::sync::Arc;

use lap_api::link::{FromGuest, PROTOCOL, Report, ToGuest, Turn};
use lap_link::{Frame, LinkError, MAX_FRAME_BYTES, Reader, Writer};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::boot;
use crate::channels::{Channels, Port};
use crate::harness::{self, Order, Setting};
use crate::layout::Layout;
use crate::outbox::{self, Outbox};
use crate::trust;

/// Orders on their way to the harness. When it is full a turn is refused: one runs at a time, so more than a few waiting
/// ones mean that the other side has lost count.
const ORDERS: usize = 64;

/// Frames of channels on their way to the link. When it is full, terminals keep what they have to say until there is room.
const CHANNEL_FRAMES: usize = 64;

/// Turns whose ids are remembered, so that none runs twice.
const REMEMBERED_TURNS: usize = 4096;

/// Serves one sandbox until the link ends; then everything it started is ended too.
pub async fn run(link: UnixStream, layout: Layout) -> Result<(), LinkError> {
    let (from, mut to) = link.into_split();
    // The first order may be here already and take its time; the hello does not wait for it.
    Writer::new(&mut to).send(&FromGuest::Hello { protocol: PROTOCOL }).await?;
    let (out, queue) = outbox::channel();
    let (port, frames) = mpsc::channel(CHANNEL_FRAMES);
    let mut tasks = JoinSet::new();
    let mut delivery = tokio::spawn(outbox::deliver(queue, frames, to));
    let channels = Channels::new(Port::new(port));
    let mut guest = Guest { layout, out, orders: None, turns: VecDeque::new(), channels };
    let mut reader = Reader::new(from, MAX_FRAME_BYTES);
    let ended = loop {
        let frame = tokio::select! {
            frame = reader.frame::<ToGuest>() => frame,
            // The writing half broke; nobody hears the guest any more.
            _ = &mut delivery => break Ok(()),
        };
        match frame {
            Ok(Some(Frame::Message(message))) => guest.take(message, &mut tasks).await,
            Ok(Some(Frame::Data(data))) => guest.channels.data(data),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    // Ending the tasks drops the process groups they own, which kills them.
    guest.channels.shutdown().await;
    tasks.shutdown().await;
    delivery.abort();
    ended
}

struct Guest {
    layout: Layout,
    out: Outbox,
    /// To the harness's task; there is none before boot.
    orders: Option<mpsc::Sender<Order>>,
    turns: VecDeque<String>,
    channels: Channels,
}

impl Guest {
    async fn take(&mut self, message: ToGuest, tasks: &mut JoinSet<()>) {
        match message {
            ToGuest::Trust { protocol: _, ca_pem } => {
                if let Err(error) = trust::write(&self.layout, &ca_pem) {
                    self.out.line("guest", &format!("could not write the certificates: {error}"));
                }
            }
            ToGuest::Boot(boot) if self.orders.is_none() => {
                let (orders, inbox) = mpsc::channel(ORDERS);
                self.orders = Some(orders.clone());
                let env = crate::environment::environment(&self.layout, &boot);
                let setting = Arc::new(Setting { layout: self.layout.clone(), env, boot: *boot });
                self.channels.set_up(Arc::clone(&setting), orders);
                tasks.spawn(bring_up(setting, inbox, self.out.clone()));
            }
            ToGuest::Boot(_) => self.out.line("guest", "a second boot was ignored"),
            ToGuest::Turn(turn) => self.turn(turn).await,
            ToGuest::Abort { turn_id } => self.order(Order::Abort { turn_id }),
            ToGuest::Permission { request_id, decision } => self.order(Order::Permission { request_id, decision }),
            ToGuest::Channel(message) => self.channels.take(message),
        }
    }

    async fn turn(&mut self, turn: Turn) {
        if self.turns.contains(&turn.turn_id) {
            return;
        }
        if self.turns.len() == REMEMBERED_TURNS {
            self.turns.pop_front();
        }
        let turn_id = turn.turn_id.clone();
        self.turns.push_back(turn_id.clone());
        let taken = self.orders.as_ref().map(|orders| orders.try_send(Order::Turn(turn)));
        let error = match taken {
            Some(Ok(())) => return,
            Some(Err(mpsc::error::TrySendError::Full(_))) => "too many turns wait in the sandbox",
            Some(Err(mpsc::error::TrySendError::Closed(_))) => "the sandbox did not come up",
            None => "the sandbox was not told to come up",
        };
        let failed = Report::TurnFailed { turn_id, code: "harness_failed".to_owned(), error: error.to_owned() };
        self.out.report(failed).await;
    }

    fn order(&self, order: Order) {
        // Without a harness there is nothing to abort and nothing to permit.
        if let Some(orders) = &self.orders
            && orders.try_send(order).is_err()
        {
            self.out.line("guest", "an order found no harness to take it");
        }
    }
}

/// Brings the sandbox up and then serves turns for as long as it lives.
async fn bring_up(setting: Arc<Setting>, inbox: mpsc::Receiver<Order>, out: Outbox) {
    let done = async {
        boot::files(&setting.layout, &setting.boot, &out).await?;
        let harness = harness::start(&setting, &out)?;
        let (tree, ()) = tokio::join!(
            boot::tree(&setting.layout, &setting.env, &setting.boot, &out),
            trust::tell_nss(&setting.layout, &setting.env, &out),
        );
        tree?;
        harness.serve(Arc::clone(&setting), inbox, out.clone()).await
    };
    if let Err(failure) = done.await {
        out.report(Report::BootFailed { code: failure.code.to_owned(), reason: failure.reason }).await;
    }
}
