//! The fuzz targets: functions that take any bytes and panic when something that must always hold does not.
//!
//! There is one set of them. libFuzzer drives it by hand (`make fuzz`, the folder `fuzz/`); the tests of this crate run the
//! same functions over the same seeds and some thousand mutations of them. Nothing of the product depends on it.

mod egress;
mod env;
mod frames;
mod hosts;
mod mutate;
mod paths;

pub use mutate::Mutations;

/// Something that takes bytes from outside, and what must hold for it.
pub struct Target {
    /// As the folder of its seeds is called.
    pub name: &'static str,
    /// Panics when it does not hold.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "dns", run: lap_vault::fuzz::dns },
    Target { name: "egress", run: egress::egress },
    Target { name: "env", run: env::env },
    Target { name: "frames", run: frames::frames },
    Target { name: "gateway_route", run: lap_vault::fuzz::gateway_route },
    Target { name: "host_header", run: lap_vault::fuzz::host_header },
    Target { name: "hosts", run: hosts::hosts },
    Target { name: "paths", run: paths::paths },
    Target { name: "recorded_path", run: lap_vault::fuzz::recorded_path },
    Target { name: "replace", run: lap_vault::fuzz::replace },
    Target { name: "rules", run: hosts::rules },
    Target { name: "scrub", run: lap_vault::fuzz::scrub },
    Target { name: "signed_request", run: lap_vault::fuzz::signed_request },
    Target { name: "speaks", run: lap_vault::fuzz::speaks },
    Target { name: "swap_in_body", run: lap_vault::fuzz::swap_in_body },
    Target { name: "swap_in_headers", run: lap_vault::fuzz::swap_in_headers },
    Target { name: "swap_in_path", run: lap_vault::fuzz::swap_in_path },
    Target { name: "websocket", run: lap_vault::fuzz::websocket },
];

/// Runs one of them.
///
/// # Panics
/// When there is none of this name, and when what must hold does not.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("there is no target `{name}`")).run)(data);
}
