//! Steps written into a prompt: `[[bash:CMD]] [[read:PATH]] [[tool:NAME JSON]] [[say:TEXT]] [[think:TEXT]] [[slow:MS]]
//! [[hold:NAME]] [[error:STATUS]] [[error:STATUS TIMES]] [[recall]] [[sys:TEXT]] [[tools]] [[images]]`.
//!
//! `recall` repeats all earlier prompts, which proves a resumed conversation; `sys` says whether the system prompt contains a
//! text; `hold` stands until the test releases it; `error` fails the call, for ever or so many times.

use super::script::Step;

/// The steps in a prompt, in order; none if it has no marker.
pub fn parse(prompt: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = prompt;
    while let Some(start) = rest.find("[[") {
        let inside = &rest[start + 2..];
        let Some(end) = end_of(inside) else { break };
        steps.extend(step(&inside[..end]));
        rest = &inside[end + 2..];
    }
    steps
}

/// Brackets inside, as in JSON and in shell tests, come in pairs; where they do not, the first `]]` ends the marker.
fn end_of(inside: &str) -> Option<usize> {
    let mut open = 0;
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            b'[' => open += 1,
            b']' if open > 0 => open -= 1,
            b']' if inside[at..].starts_with("]]") => return Some(at),
            _ => {}
        }
    }
    inside.find("]]")
}

fn step(marker: &str) -> Option<Step> {
    let (name, argument) = marker.split_once(':').unwrap_or((marker, ""));
    Some(match name {
        "bash" => Step::shell(argument),
        "read" => Step::read(argument),
        "tool" => {
            let (tool, input) = argument.split_once(' ').unwrap_or((argument, "{}"));
            Step::tool(tool, serde_json::from_str(input).unwrap_or_default())
        }
        "say" => Step::say(argument),
        "think" => Step::Think(argument.to_owned()),
        "slow" => Step::Slow(argument.parse().ok()?),
        "hold" => Step::Hold(argument.to_owned()),
        "error" => {
            let (status, times) = argument.split_once(' ').unwrap_or((argument, ""));
            Step::Error { status: status.parse().ok()?, times: times.parse().ok() }
        }
        "recall" => Step::Recall,
        "sys" => Step::System(argument.to_owned()),
        "tools" => Step::Tools,
        "images" => Step::Images,
        _ => return None,
    })
}
