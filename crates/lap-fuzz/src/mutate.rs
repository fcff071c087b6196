//! Mutations of seeds, the same ones every time: what a fuzzer does without its eyes. It finds less than a fuzzer and runs
//! anywhere, in seconds.

/// Seeds grow to this and no further.
const LONGEST: usize = 2048;

/// Texts that programs stumble over.
const WORDS: [&[u8]; 32] = [
    b"\0",
    b"\xff",
    b"\n",
    b"\r\n",
    b" ",
    b".",
    b"..",
    b"/",
    b"//",
    b"%2e",
    b"%00",
    b"?",
    b"#",
    b"&",
    b"=",
    b":",
    b"@",
    b"[",
    b"]",
    b"*",
    b"*.",
    b"0x7f",
    b"0177",
    b"255",
    b"4294967295",
    b"xn--",
    b"stub_",
    b"%",
    b"\\",
    b"\"",
    b"\xe2\x80\xa6",
    b"\x80",
];

/// The mutations of some seeds; never ends.
pub struct Mutations<'a> {
    seeds: &'a [Vec<u8>],
    state: u64,
}

impl<'a> Mutations<'a> {
    /// `salt` makes another row of the same seeds.
    pub fn of(seeds: &'a [Vec<u8>], salt: u64) -> Self {
        // Any odd number will do as a start but zero.
        Self { seeds, state: salt.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1 }
    }

    /// Below `bound`; xorshift64*.
    fn random(&mut self, bound: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let high = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap_or_default() % bound.max(1)
    }

    fn seed(&mut self) -> &'a [u8] {
        let at = self.random(self.seeds.len());
        self.seeds.get(at).map_or(&[], Vec::as_slice)
    }

    fn part<'b>(&mut self, of: &'b [u8]) -> &'b [u8] {
        let from = self.random(of.len() + 1);
        let length = self.random(of.len() - from + 1);
        &of[from..from + length]
    }

    fn mutate(&mut self, data: &mut Vec<u8>) {
        let at = self.random(data.len() + 1);
        match self.random(8) {
            0 if at < data.len() => data[at] ^= 1 << self.random(8),
            1 if at < data.len() => data[at] = u8::try_from(self.random(256)).unwrap_or_default(),
            2 => {
                let word = WORDS[self.random(WORDS.len())];
                data.splice(at..at, word.iter().copied());
            }
            3 => {
                let other = self.seed();
                let part = self.part(other);
                data.splice(at..at, part.iter().copied());
            }
            4 => {
                let copy = self.part(&data.clone()).to_vec();
                data.splice(at..at, copy);
            }
            5 => {
                let end = at + self.random(data.len() - at + 1);
                data.drain(at..end);
            }
            6 => data.truncate(at),
            _ => data.insert(at, u8::try_from(self.random(256)).unwrap_or_default()),
        }
        data.truncate(LONGEST);
    }
}

impl Iterator for Mutations<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut data = self.seed().to_vec();
        for _ in 0..=self.random(6) {
            self.mutate(&mut data);
        }
        Some(data)
    }
}
