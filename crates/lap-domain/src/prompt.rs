//! The system prompt of a session and the skills that come with it.

use std::collections::BTreeSet;

use crate::ids::SkillId;

/// A skill of the library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skill {
    pub id: SkillId,
    pub name: String,
    pub description: Option<String>,
    /// Markdown; may begin with front matter of its own.
    pub content: String,
}

/// A skill as a file of a sandbox: `<skills dir>/<slug>/SKILL.md`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkillFile {
    /// Name of its folder.
    pub slug: String,
    /// Whole text, front matter included.
    pub content: String,
}

/// The prompt with a block for each skill, in this order; nothing when there is nothing to say.
pub fn system_prompt(prompt: Option<&str>, skills: &[Skill]) -> Option<String> {
    let own = prompt.filter(|prompt| !prompt.trim().is_empty()).map(str::to_owned);
    let blocks = skills.iter().map(|skill| format!("<!-- skill:{} -->\n{}", skill.id, skill.content.trim_end()));
    let parts: Vec<String> = own.into_iter().chain(blocks).collect();
    (!parts.is_empty()).then(|| parts.join("\n\n"))
}

/// The skills as files. Folder names differ even when names do not.
pub fn skill_files(skills: &[Skill]) -> Vec<SkillFile> {
    let mut taken = BTreeSet::new();
    let mut files = Vec::with_capacity(skills.len());
    for skill in skills {
        let base = slug(&skill.name);
        let mut unique = base.clone();
        let mut number = 2;
        while !taken.insert(unique.clone()) {
            unique = format!("{base}-{number}");
            number += 1;
        }
        let content = skill_file(skill, &unique);
        files.push(SkillFile { slug: unique, content });
    }
    files
}

/// A name as a folder: lower-case ASCII letters, digits and single hyphens, which is what every harness accepts.
pub fn slug(name: &str) -> String {
    /// Harnesses take 64; this leaves room for a number behind it.
    const MAX: usize = 60;
    let mut slug = String::new();
    for c in name.chars() {
        if slug.len() == MAX {
            break;
        }
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() { "skill".to_owned() } else { slug.to_owned() }
}

/// `SKILL.md`: front matter with the two fields harnesses read, any further fields of the skill's own, then its text.
fn skill_file(skill: &Skill, slug: &str) -> String {
    let Matter { fields, description, body } = split_front_matter(&skill.content);
    let description = match (&skill.description, description) {
        (Some(given), _) if !given.trim().is_empty() => quoted(given.trim()),
        (_, Some(own)) => own,
        _ => quoted(&skill.name),
    };
    let further: String = fields.iter().map(|line| format!("{line}\n")).collect();
    format!("---\nname: {slug}\ndescription: {description}\n{further}---\n\n{}\n", body.trim())
}

struct Matter<'a> {
    /// Lines of the front matter but `name` and `description`.
    fields: Vec<&'a str>,
    /// The description as it is written there, when it is on one line.
    description: Option<String>,
    body: &'a str,
}

fn split_front_matter(content: &str) -> Matter<'_> {
    let none = Matter { fields: Vec::new(), description: None, body: content };
    let Some(rest) = content.strip_prefix("---\n") else { return none };
    let Some((front, body)) =
        rest.split_once("\n---\n").or_else(|| rest.strip_suffix("\n---").map(|front| (front, "")))
    else {
        return none;
    };
    let mut matter = Matter { fields: Vec::new(), description: None, body };
    let mut ours = false;
    for line in front.lines() {
        let continues = line.starts_with([' ', '\t']) || line.is_empty();
        if !continues {
            ours = line.starts_with("name:") || line.starts_with("description:");
            if let Some(value) = line.strip_prefix("description:") {
                let value = value.trim();
                let on_one_line = !value.is_empty() && !value.starts_with(['|', '>']);
                matter.description = on_one_line.then(|| value.to_owned());
            }
        } else if ours {
            // The description went on: what was taken is not all of it.
            matter.description = None;
        }
        if !ours {
            matter.fields.push(line);
        }
    }
    matter
}

/// A YAML double-quoted string on one line.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push(' '),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests;
