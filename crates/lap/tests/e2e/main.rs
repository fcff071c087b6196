//! The built program, end to end: a real server process, real sandboxes, the real opencode, real git over https.

mod bring_up;
mod budgets;
mod canary;
mod events;
mod github_app;
mod harnesses;
mod limits;
mod live_lists;
mod main_job;
mod many;
mod ordinary_user;
mod room;
mod survival;
mod terminal;
mod tmux;
mod vault;
mod world;
