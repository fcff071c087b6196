//! What the fuzz targets of `lap-fuzz` run inside the vault: its parsers and its rewriting, each with what must hold for any
//! input. Behind the feature `fuzz`, so that nothing of it ships; a broken promise is a panic.

mod input;
mod parse;
mod replace;
mod rewrite;
mod scrub;

pub use parse::{dns, gateway_route, host_header, recorded_path, speaks};
pub use replace::replace;
pub use rewrite::{swap_in_body, swap_in_headers, swap_in_path};
pub use scrub::scrub;

/// See there.
pub fn signed_request(data: &[u8]) {
    crate::sigv4::fuzz::signed_request(data);
}

/// See there.
pub fn websocket(data: &[u8]) {
    crate::websocket::fuzz::frames(data);
}
