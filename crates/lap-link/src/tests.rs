use super::*;

async fn check(limit: usize, cut: usize, messages: &[&str], expect: Result<usize, ()>) {
    let bytes: Vec<u8> = messages.iter().flat_map(|text| frame(text).expect("text is JSON")).collect();
    let (mut near, far) = tokio::io::duplex(bytes.len() + 1);
    tokio::spawn(async move {
        for piece in bytes.chunks(cut) {
            near.write_all(piece).await.expect("the pipe is large enough");
            tokio::task::yield_now().await;
        }
    });
    let mut reader = Reader::new(far, limit);
    let mut seen = Vec::<String>::new();
    let end = loop {
        match reader.next::<String>().await {
            Ok(Some(text)) => seen.push(text),
            Ok(None) => break Ok(seen.len()),
            Err(_) => break Err(()),
        }
    };
    assert_eq!(end, expect);
    if expect.is_ok() {
        assert_eq!(seen, messages);
    }
}

#[tokio::test]
async fn messages_survive_any_cutting() {
    for cut in 1..12 {
        check(1000, cut, &["a", "", "three words here"], Ok(3)).await;
    }
}

#[tokio::test]
async fn a_frame_over_the_limit_ends_the_link() {
    check(10, 3, &["0123456789"], Err(())).await;
}
