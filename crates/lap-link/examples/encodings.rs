//! What a channel's bytes cost on a link, as they are and as base64 in JSON: processor time for each GiB, written and read.

#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lap_link::{Data, Frame, MAX_FRAME_BYTES, Reader, Writer};

const CHUNK: usize = 32 * 1024;
const FRAMES: u64 = 8 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let bytes: Vec<u8> = (0..CHUNK).map(|n| (n * 31 % 251) as u8).collect();
    let data = |position| Data { channel: 7, stream: 0, position, bytes: bytes.clone().into() };
    let began = Instant::now();
    for position in 0..FRAMES {
        let mut written = Vec::new();
        Writer::new(&mut written).data(&data(position)).await.expect("memory takes it");
        let read = Reader::new(written.as_slice(), MAX_FRAME_BYTES).frame::<()>().await.expect("well formed");
        assert!(matches!(read, Some(Frame::Data(read)) if read.bytes.len() == CHUNK));
    }
    tell("bytes as they are", began.elapsed());
    let began = Instant::now();
    for _ in 0..FRAMES {
        let mut written = Vec::new();
        Writer::new(&mut written).send(&STANDARD.encode(&bytes)).await.expect("memory takes it");
        let read: Option<String> = Reader::new(written.as_slice(), MAX_FRAME_BYTES).next().await.expect("well formed");
        assert_eq!(STANDARD.decode(read.expect("one message")).expect("base64").len(), CHUNK);
    }
    tell("base64 in JSON", began.elapsed());
}

fn tell(what: &str, took: Duration) {
    let gib = (FRAMES as f64 * CHUNK as f64) / f64::from(1 << 30);
    println!("{what}: {:.2} s per GiB", took.as_secs_f64() / gib);
}
