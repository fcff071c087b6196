//! What model calls used is summed by session, agent, model and day, and limits are kept beside it.

use lap_domain::time::Timestamp;
use lap_store::{LogItem, StoreError, UsageBy, UsageFilter, UsageRow, Write};

use crate::kit::*;

const DAY: i64 = 86_400_000;

async fn log(kit: &Kit, session: &str, incarnation: u32, entries: Vec<(u64, i64, Write)>) {
    let items = entries.into_iter().map(|(seq, at, write)| LogItem { seq, at: Timestamp(at), writes: vec![write] });
    kit.store.append_log(&sid(session), incarnation, items.collect()).await.expect("works");
}

/// Sessions `s1` and `s2` of `a1`, `s3` of `a2`.
async fn used() -> Kit {
    let kit = Kit::ready().await;
    kit.session("s2").await;
    kit.store.insert_agent(&agent("a2")).await.expect("inserts");
    let new = lap_store::NewSession {
        session: session("s3", "a2"),
        stubs: [].into(),
        first_turn: None,
        boot_token: "of-the-first".into(),
        budget: Budget::default(),
    };
    kit.store.insert_session(new).await.expect("inserts");
    let entries = vec![
        (1, 0, metered("claude", 10, Some(0.5))),
        (2, DAY, metered("claude", 20, None)),
        (3, DAY, metered("gpt", 4, None)),
    ];
    log(&kit, "s1", 1, entries).await;
    log(&kit, "s2", 1, vec![(1, DAY, metered("claude", 100, Some(0.25)))]).await;
    log(&kit, "s3", 1, vec![(1, 2 * DAY, metered("claude", 1000, None))]).await;
    kit
}

async fn sums(kit: &Kit, by: &[UsageBy], change: impl FnOnce(&mut UsageFilter)) -> Vec<String> {
    let mut filter = UsageFilter { by: by.iter().copied().collect(), limit: 50, ..UsageFilter::default() };
    change(&mut filter);
    let page = kit.store.usage(&filter).await.expect("reads");
    assert_eq!(page.total, page.rows.len() as u64);
    page.rows
        .into_iter()
        .map(|UsageRow { agent_id, agent_name: _, session_id, model, day, spend }| {
            let words = [agent_id.map(|id| id.to_string()), session_id.map(|id| id.to_string()), model, day];
            let words: Vec<String> = words.into_iter().flatten().collect();
            format!("{}: {}", words.join(" "), told(&spend))
        })
        .collect()
}

#[tokio::test]
async fn sums_by_whatever_is_asked_for() {
    use UsageBy as By;
    let kit = used().await;
    assert_eq!(sums(&kit, &[], |_| {}).await, [": 5 calls 1134 in 0 out $0.75"]);
    assert_eq!(sums(&kit, &[By::Agent], |_| {}).await, ["a1: 4 calls 134 in 0 out $0.75", "a2: 1 calls 1000 in 0 out"]);
    assert_eq!(
        sums(&kit, &[By::Model], |_| {}).await,
        ["claude: 4 calls 1130 in 0 out $0.75", "gpt: 1 calls 4 in 0 out"]
    );
    assert_eq!(
        sums(&kit, &[By::Day, By::Session], |_| {}).await,
        [
            "s3 1970-01-03: 1 calls 1000 in 0 out",
            "s2 1970-01-02: 1 calls 100 in 0 out $0.25",
            "s1 1970-01-02: 2 calls 24 in 0 out",
            "s1 1970-01-01: 1 calls 10 in 0 out $0.5",
        ]
    );
    let first = |filter: &mut UsageFilter| {
        filter.agent_id = Some(aid("a1"));
        filter.model = Some("claude".to_owned());
        filter.to = Some("1970-01-01".to_owned());
    };
    assert_eq!(sums(&kit, &[By::Day], first).await, ["1970-01-01: 1 calls 10 in 0 out $0.5"]);
    let last = |filter: &mut UsageFilter| filter.from = Some("1970-01-03".to_owned());
    assert_eq!(sums(&kit, &[By::Agent], last).await, ["a2: 1 calls 1000 in 0 out"]);
    assert_eq!(sums(&kit, &[By::Agent], |filter| filter.session_id = Some(sid("nope"))).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_counts_elsewhere_leaves_the_asking_sandbox_out() {
    let kit = used().await;
    let of = |session: &str, incarnation| {
        let (kit, session) = (&kit, sid(session));
        async move {
            let spent = kit.store.spent_elsewhere(&aid("a1"), &session, incarnation).await.expect("reads");
            (spent.session.input_tokens, spent.agent.input_tokens)
        }
    };
    assert_eq!(of("s1", 1).await, (0, 100));
    assert_eq!(of("s1", 2).await, (34, 134), "an earlier sandbox of the same session");
    assert_eq!(of("s2", 1).await, (0, 34));
}

#[tokio::test]
async fn sums_outlive_sessions_and_limits_do_not() {
    let kit = used().await;
    let budget = Budget { max_tokens: Some(7), max_cost_usd: Some(0.5) };
    kit.store.set_session_budget(&sid("s1"), &budget).await.expect("works");
    assert_eq!(kit.store.budgets(&["s1", "s2"]).await.expect("reads"), [("s1".to_owned(), budget)].into());
    kit.store.delete_session(&sid("s1"), NOW).await.expect("deletes");
    assert!(kit.store.budgets(&["s1"]).await.expect("reads").is_empty());
    let refused = kit.store.set_session_budget(&sid("s1"), &budget).await;
    assert!(matches!(refused, Err(StoreError::NotFound { .. })));
    log(&kit, "s1", 1, vec![(4, DAY, metered("claude", 6, None))]).await;
    let all = kit.store.usage_of_agents(&[&aid("a1")]).await.expect("reads").remove("a1").expect("has some");
    assert_eq!(lap_domain::usage::total(&all).input_tokens, 140, "the last calls of a deleted session count, too");
}

#[tokio::test]
async fn an_agent_has_its_limits() {
    let kit = Kit::new().await;
    let budget = Budget { max_tokens: None, max_cost_usd: Some(2.5) };
    kit.store.insert_agent(&lap_domain::agent::Agent { budget, ..agent("a1") }).await.expect("inserts");
    assert_eq!(kit.store.agent(&aid("a1")).await.expect("reads").budget, budget);
    let none = Budget::default();
    let edit = move |agent| Ok::<_, ()>(lap_domain::agent::Agent { budget: none, ..agent });
    kit.store.update_agent(&aid("a1"), edit).await.expect("works").expect("edits");
    assert_eq!(kit.store.agent(&aid("a1")).await.expect("reads").budget, none);
}
