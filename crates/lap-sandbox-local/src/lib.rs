//! Sandboxes on this machine: Linux namespaces, a read-only view of the system, limits, and no way out but the sidecar.
//!
//! A program that offers the roles calls, each as its first statement:
//!
//! * `lap sidecar`: [`start_sidecar`], before any thread exists; then it may start its runtime and use [`Started`];
//! * `lap init`: [`init_main`], which returns in a new process alone: that one is the guest from then on, and finds its link
//!   to the sidecar as descriptor 0.
//!
//! The server uses [`LocalBackend`]. Knows nothing of the store, the vault or what the link carries.

mod backend;
mod cgroup;
mod confine;
mod doctor;
mod identity;
mod image;
mod init;
mod inside;
mod launch;
mod log;
mod net;
mod netlink;
mod record;
mod root;
mod seccomp;
mod spec;
mod sys;
mod volume;
mod waiting;

pub use backend::{LocalBackend, LocalConfig, checks};
pub use cgroup::{CgroupPlan, LimitHit, LimitWatch};
pub use init::init_main;
pub use launch::{Launched, Started, kill, launch, start_sidecar};
pub use log::BoundedLog;
pub use spec::{LaunchError, LaunchReply, LaunchSpec, SidecarLaunch, VolumePlan};
pub use sys::{give_back_heap, give_back_program, readable};
pub use volume::{Usage, Volume, measure};
