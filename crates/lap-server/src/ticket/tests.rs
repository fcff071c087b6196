use super::*;

fn tickets(key: &str) -> Tickets {
    Tickets::new(&Secret::new(key.to_owned()))
}

#[track_caller]
fn check(session: &str, ticket: &str, now_s: i64, good: bool) {
    assert_eq!(tickets("k").check(session, ticket, now_s).is_some(), good, "{session} {ticket} {now_s}");
}

#[test]
fn a_ticket_opens_its_session_for_a_while() {
    let ticket = tickets("k").issue("s1", Caller::Operator, 1000);
    check("s1", &ticket, 1000, true);
    check("s1", &ticket, 1000 + VALID_S - 1, true);
    check("s1", &ticket, 1000 + VALID_S, false);
    check("s2", &ticket, 1000, false);
    assert_eq!(tickets("other").check("s1", &ticket, 1000), None);
}

#[test]
fn nothing_else_opens_it() {
    let ticket = tickets("k").issue("s1", Caller::Operator, 1000);
    let later = ticket.replacen("1300", "9300", 1);
    assert_ne!(later, ticket);
    check("s1", &later, 1000, false);
    check("s1", &ticket.replacen("operator", "operato", 1), 1000, false);
    check("s1", &ticket[..ticket.len() - 1], 1000, false);
    for rubbish in ["", ".", "..", "a.b.c", "1300.operator.", "é.é.é"] {
        check("s1", rubbish, 1000, false);
    }
}
