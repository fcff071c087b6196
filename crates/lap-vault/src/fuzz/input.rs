//! Cuts a fuzzer's bytes into the parts a target wants. Missing bytes count as zero, so that every input means something.

/// What is left of the input.
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// At most `longest` bytes; a byte ahead says how many.
    pub fn sized(&mut self, longest: u8) -> &'a [u8] {
        let wanted = usize::from(self.byte() % (longest + 1));
        let (taken, rest) = self.0.split_at(wanted.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Up to the end of the line.
    pub fn line(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|byte| *byte == b'\n').unwrap_or(self.0.len());
        let (line, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        line
    }

    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// Cuts `stream` into pieces as long as the bytes of `cuts` say, over and over; without any it stays whole.
pub(super) fn pieces<'a>(stream: &'a [u8], cuts: &[u8]) -> Vec<&'a [u8]> {
    let (mut left, mut pieces) = (stream, Vec::new());
    for cut in cuts.iter().cycle() {
        if left.is_empty() {
            return pieces;
        }
        let (piece, rest) = left.split_at(usize::from(cut % 32).clamp(1, left.len()));
        pieces.push(piece);
        left = rest;
    }
    pieces.push(left);
    pieces
}
