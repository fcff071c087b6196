//! What the store promises, on a database of its own for every test.

mod agents;
mod events;
mod idempotency;
mod kit;
mod log;
mod rotate;
mod safety;
mod session_egress;
mod sessions;
mod turns;
mod usage;
