//! What the standard health service says of this server.

use std::sync::Arc;

use futures_util::FutureExt;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// Changes what the health service answers. Cheap to clone. The name `""` stands for the whole server.
#[derive(Clone, Debug)]
pub struct HealthHandle {
    reporter: HealthReporter,
    names: Arc<[&'static str]>,
}

impl HealthHandle {
    /// All of `names`, and the whole server, SERVING.
    pub(super) fn new(reporter: HealthReporter, names: Vec<&'static str>) -> Self {
        let handle = Self { reporter, names: names.into() };
        handle.set_all_serving().now_or_never().expect("no one else holds the new reporter's lock");
        handle
    }

    /// Reports the service `name` as SERVING.
    pub async fn set_serving(&self, name: &str) {
        self.reporter.set_service_status(name, ServingStatus::Serving).await;
    }

    /// Reports the service `name` as NOT_SERVING.
    pub async fn set_not_serving(&self, name: &str) {
        self.reporter.set_service_status(name, ServingStatus::NotServing).await;
    }

    /// Reports every service, and the whole server, as SERVING.
    pub async fn set_all_serving(&self) {
        for name in self.all() {
            self.set_serving(name).await;
        }
    }

    /// Reports every service, and the whole server, as NOT_SERVING.
    pub async fn set_all_not_serving(&self) {
        for name in self.all() {
            self.set_not_serving(name).await;
        }
    }

    /// Reports all as NOT_SERVING, and ends the streams that watch: they would hold up the drain.
    pub(super) async fn end(&self) {
        self.set_all_not_serving().await;
        let mut reporter = self.reporter.clone();
        for name in self.all() {
            reporter.clear_service_status(name).await;
        }
    }

    fn all(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once("").chain(self.names.iter().copied())
    }
}
