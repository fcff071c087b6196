//! Finds many texts at once in a stream and puts others in their place.
//!
//! The result does not depend on how the stream is cut: at the end of a piece exactly those bytes are held back that could
//! still become one of the texts, and nothing else, so that events of a stream are not delayed. Where a stream pauses with
//! such bytes held, [`Replacer::relax`] lets go of what it may. Memory is bounded by the longest text. Only the first bytes of a text are given to the search automaton, which cannot be wiped; the whole text
//! stays in a [`Secret`].

use std::sync::Arc;
use std::time::Duration;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use bytes::{Bytes, BytesMut};
use lap_domain::secret::Secret;

/// Bytes of each text that the automaton knows.
const PREFIX: usize = 4;

/// A text and what replaces it, belonging to one credential.
pub(crate) struct Needle {
    pub text: Secret<Vec<u8>>,
    pub with: Secret<Vec<u8>>,
    /// Index of the credential, which is its bit in masks.
    pub owner: u8,
}

/// A set of texts.
pub(crate) struct Needles {
    automaton: Option<AhoCorasick>,
    /// For each pattern of the automaton the needles that begin with it, longest first.
    by_prefix: Vec<Vec<usize>>,
    needles: Vec<Needle>,
    first_bytes: [bool; 256],
    longest: usize,
    /// Credentials that have a needle whose replacement has another length.
    uneven: u128,
}

struct Found {
    start: usize,
    end: usize,
    needle: usize,
}

impl Needles {
    /// Needles shorter than four bytes are left out: they would be found everywhere.
    pub fn new(needles: Vec<Needle>) -> Self {
        let needles: Vec<Needle> = needles.into_iter().filter(|n| n.text.expose().len() >= PREFIX).collect();
        let mut prefixes: Vec<Vec<u8>> = Vec::new();
        let mut by_prefix: Vec<Vec<usize>> = Vec::new();
        let mut first_bytes = [false; 256];
        let (mut longest, mut uneven) = (0, 0);
        for (i, needle) in needles.iter().enumerate() {
            let text = needle.text.expose();
            first_bytes[usize::from(text[0])] = true;
            longest = longest.max(text.len());
            if text.len() != needle.with.expose().len() {
                uneven |= 1 << needle.owner;
            }
            match prefixes.iter().position(|p| *p == text[..PREFIX]) {
                Some(known) => by_prefix[known].push(i),
                None => {
                    prefixes.push(text[..PREFIX].to_vec());
                    by_prefix.push(vec![i]);
                }
            }
        }
        for list in &mut by_prefix {
            list.sort_by_key(|i| std::cmp::Reverse(needles[*i].text.expose().len()));
        }
        let automaton = (!prefixes.is_empty()).then(|| {
            AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostFirst)
                .build(&prefixes)
                .expect("a few hundred four-byte patterns are within the automaton's limits")
        });
        Self { automaton, by_prefix, needles, first_bytes, longest, uneven }
    }

    /// Whether replacing texts of these credentials may change the length.
    pub fn changes_length(&self, enabled: u128) -> bool {
        self.uneven & enabled != 0
    }

    /// Those of the enabled credentials whose texts keep their length.
    pub fn evenly(&self, enabled: u128) -> u128 {
        enabled & !self.uneven
    }

    /// Replaces every text of the enabled credentials in a whole value. None when there was none.
    pub fn replace(&self, value: &[u8], enabled: u128) -> Option<(Vec<u8>, u128)> {
        let mut found = self.find(value, 0, enabled)?;
        let (mut out, mut at, mut hits) = (Vec::with_capacity(value.len() + 64), 0, 0);
        loop {
            let needle = &self.needles[found.needle];
            out.extend_from_slice(&value[at..found.start]);
            out.extend_from_slice(needle.with.expose());
            hits |= 1 << needle.owner;
            at = found.end;
            match self.find(value, at, enabled) {
                Some(next) => found = next,
                None => break,
            }
        }
        out.extend_from_slice(&value[at..]);
        Some((out, hits))
    }

    /// The credentials whose texts occur in a whole value.
    pub fn occurring(&self, value: &[u8]) -> u128 {
        let (mut at, mut hits) = (0, 0);
        while let Some(found) = self.find(value, at, u128::MAX) {
            hits |= 1 << self.needles[found.needle].owner;
            at = found.end;
        }
        hits
    }

    /// The leftmost text at or after `from`; of several that begin there, the longest.
    fn find(&self, buf: &[u8], from: usize, enabled: u128) -> Option<Found> {
        let automaton = self.automaton.as_ref()?;
        let mut at = from;
        while let Some(candidate) = automaton.find(Input::new(buf).range(at..)) {
            let start = candidate.start();
            for i in &self.by_prefix[candidate.pattern().as_usize()] {
                let needle = &self.needles[*i];
                let text = needle.text.expose();
                if enabled >> needle.owner & 1 == 1 && buf[start..].starts_with(text) {
                    return Some(Found { start, end: start + text.len(), needle: *i });
                }
            }
            at = start + 1;
        }
        None
    }

    /// The first position from which the rest of `buf` could become one of the texts; its length if there is none.
    fn unfinished(&self, buf: &[u8], from: usize, enabled: u128) -> usize {
        let window = from.max((buf.len() + 1).saturating_sub(self.longest));
        (window..buf.len())
            .find(|at| {
                let rest = &buf[*at..];
                self.first_bytes[usize::from(rest[0])]
                    && self.needles.iter().any(|needle| {
                        let text = needle.text.expose();
                        enabled >> needle.owner & 1 == 1 && text.len() > rest.len() && text.starts_with(rest)
                    })
            })
            .unwrap_or(buf.len())
    }
}

/// How long a stream may pause before held bytes are let go: a message of some protocol may well end in the first letter of a
/// secret, and its reader waits.
pub(crate) const PAUSE: Duration = Duration::from_millis(40);
/// So much of a secret may get out when whoever sends it pauses in its middle; the prefix that tells the kind is longer.
const MAX_RELAXED: usize = 3;

/// What may be let go when a stream pauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// Everything: the texts are no secrets (stubs).
    All,
    /// A few bytes, and the text is still recognised when it goes on (secrets).
    Little,
}

/// Replacement in a stream.
pub(crate) struct Replacer {
    needles: Arc<Needles>,
    enabled: u128,
    held: BytesMut,
    /// Of the held bytes these many are out already.
    relaxed: usize,
    hits: u128,
}

impl Replacer {
    pub fn new(needles: Arc<Needles>, enabled: u128) -> Self {
        Self { needles, enabled, held: BytesMut::new(), relaxed: 0, hits: 0 }
    }

    /// Credentials whose texts were replaced so far.
    pub fn hits(&self) -> u128 {
        self.hits
    }

    /// The credentials whose texts are replaced.
    pub fn enabled(&self) -> u128 {
        self.enabled
    }

    /// Whether nothing is held back.
    pub fn is_empty(&self) -> bool {
        self.held.len() == self.relaxed
    }

    /// The stream pauses: gives what may go, nothing if nothing may.
    pub fn relax(&mut self, release: Release) -> Bytes {
        match release {
            Release::All => self.finish(),
            Release::Little if self.held.len() <= MAX_RELAXED => {
                let out = Bytes::copy_from_slice(&self.held[self.relaxed..]);
                self.relaxed = self.held.len();
                out
            }
            Release::Little => Bytes::new(),
        }
    }

    /// Whether [`Replacer::relax`] would give something.
    pub fn can_relax(&self, release: Release) -> bool {
        !self.is_empty() && (release == Release::All || self.held.len() <= MAX_RELAXED)
    }

    /// Takes the next piece and gives what is certain. A piece without any text, and without a beginning of one at its end,
    /// comes back as it is, uncopied.
    pub fn feed(&mut self, piece: Bytes) -> Bytes {
        self.run(piece, false)
    }

    /// Gives what was held back at the end of the stream.
    pub fn finish(&mut self) -> Bytes {
        if self.held.is_empty() { Bytes::new() } else { self.run(Bytes::new(), true) }
    }

    fn run(&mut self, piece: Bytes, last: bool) -> Bytes {
        let mut out = self.replace_in(piece, last);
        let out_before = self.relaxed.min(out.len());
        self.relaxed -= out_before;
        out.split_off(out_before)
    }

    fn replace_in(&mut self, piece: Bytes, last: bool) -> Bytes {
        let piece = if self.held.is_empty() {
            piece
        } else {
            self.held.extend_from_slice(&piece);
            self.held.split().freeze()
        };
        let mut out: Option<BytesMut> = None;
        let mut at = 0;
        let mut certain = if last { piece.len() } else { self.needles.unfinished(&piece, 0, self.enabled) };
        loop {
            if at > certain {
                certain = self.needles.unfinished(&piece, at, self.enabled);
            }
            match self.needles.find(&piece, at, self.enabled) {
                Some(found) if found.start < certain => {
                    let out = out.get_or_insert_with(|| BytesMut::with_capacity(piece.len() + 64));
                    let needle = &self.needles.needles[found.needle];
                    out.extend_from_slice(&piece[at..found.start]);
                    out.extend_from_slice(needle.with.expose());
                    self.hits |= 1 << needle.owner;
                    at = found.end;
                }
                _ => {
                    self.held.extend_from_slice(&piece[certain..]);
                    return match out {
                        Some(mut out) => {
                            out.extend_from_slice(&piece[at..certain]);
                            out.freeze()
                        }
                        None => piece.slice(at..certain),
                    };
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "needles/tests.rs"]
mod tests;
