//! The local backend against real sandboxes. Runs as root, and again as an ordinary user where it starts as root.

mod attacks;
mod conformance;
mod daily_work;
mod kit;
mod leftovers;
mod limits;
mod ordinary_user;
