use super::*;

fn spend(tokens: u64, cost_usd: Option<f64>) -> Spend {
    Spend { calls: 1, input_tokens: tokens, cost_usd, ..Spend::default() }
}

fn of(whose: Whose, max_tokens: Option<u64>, max_cost_usd: Option<f64>, elsewhere: Spend) -> Allowance {
    Allowance { whose, budget: Budget { max_tokens, max_cost_usd }, elsewhere }
}

#[track_caller]
fn check(allowances: &[Allowance], here: Spend, unpriced: u32, expected: Option<&str>) {
    let refusal = refusal(allowances, &here, unpriced);
    match (&refusal, expected) {
        (None, None) => {}
        (Some(sentence), Some(part)) if sentence.contains(part) => {}
        _ => panic!("{refusal:?} instead of {expected:?}"),
    }
}

#[test]
fn a_limit_is_reached_by_what_all_have_used() {
    let session = |elsewhere| of(Whose::Session, Some(12_345), None, spend(elsewhere, None));
    check(&[], spend(u64::MAX, Some(1e9)), 99, None);
    check(&[session(0)], spend(12_344, None), 0, None);
    check(&[session(0)], spend(12_345, None), 0, Some("this session may use 12,345 tokens and has used 12,345"));
    check(&[session(12_000)], spend(345, None), 0, Some("has used 12,345"));
    let agent = of(Whose::Agent, None, Some(2.5), spend(0, Some(2.0)));
    check(&[session(0), agent], spend(10, Some(0.49)), 0, None);
    check(
        &[session(0), agent],
        spend(10, Some(0.5)),
        0,
        Some("may spend $2.5 in all its sessions and has spent $2.5000"),
    );
}

#[test]
fn a_budget_in_dollars_needs_costs() {
    let dollars = of(Whose::Session, None, Some(1.0), Spend::default());
    check(&[dollars], spend(10, None), UNPRICED_IN_A_ROW - 1, None);
    check(&[dollars], spend(10, None), UNPRICED_IN_A_ROW, Some("did not say what the last 10 calls cost"));
    let tokens = of(Whose::Session, Some(100), None, Spend::default());
    check(&[tokens], spend(10, None), 99, None);
}

#[test]
fn limits_are_numbers_above_zero() {
    let problems = |max_tokens, max_cost_usd| {
        let mut problems = Vec::new();
        Budget { max_tokens, max_cost_usd }.check(&mut problems);
        problems.into_iter().map(|problem| problem.field).collect::<Vec<_>>()
    };
    assert_eq!(problems(Some(1), Some(0.01)), Vec::<String>::new());
    assert_eq!(problems(None, None), Vec::<String>::new());
    assert_eq!(problems(Some(0), Some(0.0)), ["max_tokens", "max_cost_usd"]);
    assert_eq!(problems(Some(u64::MAX), Some(f64::NAN)), ["max_tokens", "max_cost_usd"]);
    assert_eq!(problems(None, Some(-1.0)), ["max_cost_usd"]);
    assert_eq!(problems(None, Some(f64::INFINITY)), ["max_cost_usd"]);
}

#[test]
fn sums_hold_whatever_is_added() {
    let mut sum = spend(u64::MAX, None);
    sum.add(&spend(5, Some(f64::NAN)));
    assert_eq!((sum.input_tokens, sum.cost_usd), (u64::MAX, None));
    sum.add(&spend(0, Some(0.25)));
    sum.add(&spend(0, Some(-4.0)));
    assert_eq!(sum.cost_usd, Some(0.25));
}
