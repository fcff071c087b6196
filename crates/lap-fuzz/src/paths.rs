//! Where an agent's files may be written.

use std::path::{Component, Path};

use lap_domain::files::{HOME, resolve_path};

/// What is accepted is a plain absolute path that stays out of the system's folders, read again it is the same.
pub(crate) fn paths(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(resolved) = resolve_path(&text) else { return };
    let path = Path::new(&resolved);
    let plain = path.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
    assert!(path.is_absolute() && plain && path.file_name().is_some(), "{text:?} became {resolved:?}");
    for closed in ["/proc", "/sys", "/dev", "/run/lap", "/opt/lap"] {
        assert!(!path.starts_with(closed), "{text:?} became {resolved:?}");
    }
    assert!(path != Path::new(HOME) && !resolved.contains("//") && !resolved.chars().any(char::is_control));
    assert_eq!(resolve_path(&resolved), Ok(resolved.clone()), "{text:?}");
}
