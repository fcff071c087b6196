//! Every target over its seeds and some thousand mutations of them, the same ones every time.

use std::path::{Path, PathBuf};

use lap_fuzz::{Mutations, TARGETS, run};

/// Mutations of each target's seeds. All targets together take well under a minute.
const MUTATIONS: usize = 4000;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds")
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = folder().join(target);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|problem| panic!("{}: {problem}", folder.display()))
        .map(|entry| entry.expect("a folder that can be read").path())
        .collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("a seed")).collect()
}

#[track_caller]
fn check(target: &str) {
    let seeds = seeds(target);
    assert!(!seeds.is_empty(), "{target} has no seeds");
    let mutations = Mutations::of(&seeds, 1).take(MUTATIONS);
    for data in seeds.iter().cloned().chain(mutations) {
        let failed = std::panic::catch_unwind(|| run(target, &data));
        assert!(failed.is_ok(), "{target} fails on {:?}", data.escape_ascii().to_string());
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { check(stringify!($name)); })*

        #[test]
        fn every_target_is_here_and_has_seeds() {
            let here = [$(stringify!($name)),*];
            assert_eq!(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>(), here);
            let mut folders: Vec<String> = std::fs::read_dir(folder())
                .expect("seeds")
                .map(|entry| entry.expect("a folder").file_name().to_string_lossy().into_owned())
                .collect();
            folders.sort();
            assert_eq!(folders, here);
        }
    };
}

targets! {
    dns egress env frames gateway_route host_header hosts paths recorded_path replace rules scrub signed_request speaks swap_in_body
    swap_in_headers swap_in_path websocket
}
