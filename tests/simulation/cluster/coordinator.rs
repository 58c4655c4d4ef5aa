//! A simulated coordinator: the real service, which keeps nothing on its machine.

use super::broker::SimClock;
use crate::net::{self, ADDRESS};
use std::sync::Arc;
use std::time::Duration;
use thalweg_coordinator::{Coordinator, CoordinatorConfig, CoordinatorSeams};
use thalweg_core::CoordinatorId;
use thalweg_runtime::Shutdown;
use tokio::time::sleep;

/// Where brokers connect.
const PORT: u16 = 9590;
/// A process that ended by itself is started again after this.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// What outlives a crash: its name.
#[derive(Clone)]
pub struct CoordinatorNode {
    id: i32,
    name: String,
    controllers: Vec<String>,
}

impl CoordinatorNode {
    /// A coordinator that has never run.
    pub fn new(id: i32, name: String, controllers: Vec<String>) -> CoordinatorNode {
        CoordinatorNode { id, name, controllers }
    }

    /// Runs the process; again, whenever it ends by itself.
    pub async fn run(self) -> turmoil::Result {
        loop {
            if let Err(error) = self.run_once().await {
                tracing::warn!(target: "thalweg_simulation", node = self.name, error, "coordinator ended");
            }
            sleep(RESTART_PAUSE).await;
        }
    }

    async fn run_once(&self) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let mut config = CoordinatorConfig::new(CoordinatorId(self.id), self.controllers.clone());
        config.advertise = Some(format!("{}:{PORT}", self.name));
        let seams = CoordinatorSeams {
            clock: Arc::new(SimClock),
            dialer: net::dialer(),
            incoming: net::listen(PORT).await.map_err(|error| text(&error))?,
            address: (ADDRESS, PORT).into(),
        };
        let coordinator =
            Coordinator::start_with(config, seams, Shutdown::new()).await.map_err(|error| text(&error))?;
        coordinator.join().await.map_err(|error| text(&error))
    }
}
