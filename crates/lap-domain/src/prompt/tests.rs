use super::*;

fn skill(id: &str, name: &str, description: Option<&str>, content: &str) -> Skill {
    Skill {
        id: SkillId::new(id),
        name: name.to_owned(),
        description: description.map(str::to_owned),
        content: content.to_owned(),
    }
}

#[test]
fn the_prompt_carries_its_skills_in_order() {
    let skills = [skill("s2", "B", None, "second\n"), skill("s1", "A", None, "first")];
    let expect = "Be brief.\n\n<!-- skill:s2 -->\nsecond\n\n<!-- skill:s1 -->\nfirst";
    assert_eq!(system_prompt(Some("Be brief."), &skills).as_deref(), Some(expect));
    assert_eq!(system_prompt(None, &skills[1..]).as_deref(), Some("<!-- skill:s1 -->\nfirst"));
    assert_eq!(system_prompt(Some("  "), &[]), None);
    assert_eq!(system_prompt(None, &[]), None);
}

#[test]
fn slugs_are_folder_names() {
    for (name, expect) in [
        ("Review PRs!", "review-prs"),
        ("--a__b--", "a-b"),
        ("Änderung", "nderung"),
        ("../..", "skill"),
        ("日本", "skill"),
        ("", "skill"),
    ] {
        assert_eq!(slug(name), expect, "{name}");
    }
    assert_eq!(slug(&"x".repeat(300)).len(), 60);
}

#[track_caller]
fn check_file(skill: Skill, expect: &str) {
    let files = skill_files(&[skill]);
    assert_eq!(files[0].content, expect);
}

#[test]
fn skill_files_have_front_matter() {
    check_file(
        skill("1", "Say \"hi\"", Some("Greets: \"hi\"\nwarmly"), "# Hi\n"),
        "---\nname: say-hi\ndescription: \"Greets: \\\"hi\\\"\\nwarmly\"\n---\n\n# Hi\n",
    );
    check_file(skill("1", "Plain", None, "text"), "---\nname: plain\ndescription: \"Plain\"\n---\n\ntext\n");
}

#[test]
fn front_matter_of_the_skill_itself_is_kept_where_it_is_not_ours() {
    let own = "---\nname: other\ndescription: Its own words\nallowed-tools:\n  - Read\n---\n# Body\n";
    check_file(
        skill("1", "Mine", None, own),
        "---\nname: mine\ndescription: Its own words\nallowed-tools:\n  - Read\n---\n\n# Body\n",
    );
    let long = "---\ndescription: |\n  two\n  lines\nname: x\n---\nBody";
    check_file(skill("1", "Mine", Some("Given"), long), "---\nname: mine\ndescription: \"Given\"\n---\n\nBody\n");
    check_file(skill("1", "Mine", None, long), "---\nname: mine\ndescription: \"Mine\"\n---\n\nBody\n");
    check_file(skill("1", "R", None, "---\nno end"), "---\nname: r\ndescription: \"R\"\n---\n\n---\nno end\n");
}

#[test]
fn folders_differ_when_names_do_not() {
    let skills = [skill("1", "A b", None, ""), skill("2", "a-b", None, ""), skill("3", "a b!", None, "")];
    let slugs: Vec<String> = skill_files(&skills).into_iter().map(|file| file.slug).collect();
    assert_eq!(slugs, ["a-b", "a-b-2", "a-b-3"]);
}
