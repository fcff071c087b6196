//! One record per request, without values. A place in the channel is reserved before a request goes out, so that whatever
//! leaves the sandbox is written down: when the channel is full requests wait, when it is gone they are refused.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc::OwnedPermit;

use crate::meter::Metered;

/// What a request was and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// When its head had arrived.
    pub started: SystemTime,
    /// HTTP method; `TCP` for a tunnel of other bytes, `TLS` for a connection that passed unread.
    pub method: String,
    /// `host:port` as the sandbox meant it.
    pub host: String,
    /// As the sandbox sent it, query values redacted.
    pub path: String,
    /// Status the sandbox saw.
    pub status: Option<u16>,
    /// Body bytes sent by the sandbox.
    pub bytes_out: u64,
    /// Body bytes sent to the sandbox.
    pub bytes_in: u64,
    /// Until the last byte of the answer.
    pub duration: Duration,
    /// Names of the credentials that were swapped in.
    pub credentials: Vec<String>,
    /// `allowed` or the code of the refusal.
    pub verdict: String,
    /// Why it was refused or how it failed, in words; of what was allowed, that it passed unread.
    pub detail: Option<String>,
    /// What it used, if it was a model call.
    pub metered: Option<Metered>,
}

/// A request under way. Its record is sent when the last holder lets go: the answer's body, usually.
pub(crate) struct Exchange {
    permit: Mutex<Option<OwnedPermit<Record>>>,
    draft: Mutex<Draft>,
    pub bytes_out: AtomicU64,
    pub bytes_in: AtomicU64,
    /// Credentials swapped in, one bit each; names are looked up at the end.
    swapped: Mutex<u128>,
    names: Mutex<Option<Arc<crate::grants::Table>>>,
    started: SystemTime,
    clock: Instant,
}

#[derive(Default)]
struct Draft {
    method: String,
    host: String,
    path: String,
    status: Option<u16>,
    refusal: Option<(&'static str, String)>,
    note: Option<&'static str>,
    metered: Option<Metered>,
}

impl Exchange {
    pub fn new(permit: OwnedPermit<Record>, method: &str, path: String) -> Arc<Self> {
        Arc::new(Self {
            permit: Mutex::new(Some(permit)),
            draft: Mutex::new(Draft { method: method.to_owned(), path, ..Draft::default() }),
            bytes_out: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            swapped: Mutex::new(0),
            names: Mutex::new(None),
            started: SystemTime::now(),
            clock: Instant::now(),
        })
    }

    pub fn set_host(&self, host: String) {
        self.draft().host = host;
    }

    pub fn set_status(&self, status: u16) {
        self.draft().status = Some(status);
    }

    /// The first refusal or failure counts.
    pub fn set_refusal(&self, code: &'static str, detail: String) {
        self.draft().refusal.get_or_insert((code, detail));
    }

    /// Something to know about what was allowed.
    pub fn set_note(&self, note: &'static str) {
        self.draft().note = Some(note);
    }

    /// What the model call used.
    pub fn set_metered(&self, metered: Metered) {
        self.draft().metered = Some(metered);
    }

    /// Notes that the credentials of these bits were swapped in; `table` knows their names.
    pub fn add_swapped(&self, mask: u128, table: &Arc<crate::grants::Table>) {
        if mask == 0 {
            return;
        }
        *self.swapped.lock().unwrap_or_else(PoisonError::into_inner) |= mask;
        self.names.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| table.clone());
    }

    /// It did not happen after all: there will be no record of it.
    pub fn forget(&self) {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn draft(&self) -> std::sync::MutexGuard<'_, Draft> {
        self.draft.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Some(permit) = self.permit.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let mask = *self.swapped.lock().unwrap_or_else(PoisonError::into_inner);
        let table = self.names.lock().unwrap_or_else(PoisonError::into_inner).take();
        let credentials = table.map(|table| table.names_of(mask)).unwrap_or_default();
        let Draft { method, host, path, status, refusal, note, metered } = std::mem::take(&mut *self.draft());
        let (verdict, detail) = match refusal {
            Some((code, detail)) => (code.to_owned(), Some(detail)),
            None => ("allowed".to_owned(), note.map(str::to_owned)),
        };
        permit.send(Record {
            started: self.started,
            method,
            host,
            path,
            status,
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            duration: self.clock.elapsed(),
            credentials,
            verdict,
            detail,
            metered,
        });
    }
}

/// A path for the record: query values are replaced, because people put secrets there; very long ones are cut.
pub(crate) fn redacted_path(path_and_query: &str) -> String {
    /// Longer paths say nothing more to a reader.
    const LONGEST: usize = 2048;
    let mut out = String::with_capacity(path_and_query.len().min(LONGEST));
    match path_and_query.split_once('?') {
        None => out.push_str(path_and_query),
        Some((path, query)) => {
            out.push_str(path);
            for (i, pair) in query.split('&').enumerate() {
                out.push(if i == 0 { '?' } else { '&' });
                match pair.split_once('=') {
                    Some((name, _)) => {
                        out.push_str(name);
                        out.push_str("=***");
                    }
                    // A bare word may be a value just as well.
                    None => out.push_str(if pair.is_empty() { "" } else { "***" }),
                }
            }
        }
    }
    if out.len() > LONGEST {
        let cut = (0..=LONGEST).rev().find(|i| out.is_char_boundary(*i)).unwrap_or(0);
        out.truncate(cut);
        out.push('…');
    }
    out
}
