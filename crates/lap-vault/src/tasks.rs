//! Lets hyper start its tasks as the vault's own, so that shutdown can wait for them.

use std::future::Future;

use tokio_util::task::TaskTracker;

#[derive(Clone)]
pub(crate) struct Owned(pub TaskTracker);

impl<F> hyper::rt::Executor<F> for Owned
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
