//! Heads of frames, as either side could send them.

use bytes::BytesMut;

use super::frame::{Head, Order, Part, apply_mask};

/// Heads are read the same whatever the cut, written as they were read, and in no order that would let text pass as another
/// message's.
pub(crate) fn frames(data: &[u8]) {
    let whole = Head::parse(data);
    for end in 0..data.len().min(16) {
        let early = Head::parse(&data[..end]);
        assert!(early == Ok(None) || early == whole, "judged otherwise after {end} bytes: {early:?}");
    }
    let (mut order, mut left, mut in_message, mut closed) = (Order::default(), data, None, false);
    while let Ok(Some((head, length))) = Head::parse(left) {
        let mut written = BytesMut::new();
        head.write(&mut written);
        assert_eq!(written, left[..length], "there is one way to write a head");
        assert!(!head.opcode.is_control() || (head.fin && head.len <= 125));
        let end = usize::try_from(head.len).unwrap_or(usize::MAX).min(left.len() - length);
        let (payload, rest) = left[length..].split_at(end);
        if let Some(mask) = head.mask {
            let mut twice = payload.to_vec();
            apply_mask(&mut twice, mask);
            apply_mask(&mut twice, mask);
            assert_eq!(twice, payload);
        }
        let Ok(part) = order.take(&head) else { return };
        assert!(!closed, "nothing follows a close frame");
        assert_eq!(part == Part::Control, head.opcode.is_control());
        if part != Part::Control {
            assert!(in_message.is_none_or(|message| message == part), "a message is of one kind");
            in_message = (!head.fin).then_some(part);
        }
        closed = head.opcode == super::frame::Opcode::Close;
        left = rest;
    }
}
