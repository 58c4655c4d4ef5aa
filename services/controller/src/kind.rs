//! The services whose processes register and give signs of life: what is said of one of them is said of the other.

use std::fmt::{Debug, Display};
use thalweg_core::metadata::command::{BrokerRef, CoordinatorRef};
use thalweg_core::metadata::{Command, MetadataImage};
use thalweg_core::{BrokerEpoch, BrokerId, CoordinatorEpoch, CoordinatorId};

/// A kind of process that the leader fences when it gives no sign of life.
pub trait Kind: Sized + Send + Sync + 'static {
    /// Names a process for life.
    type Id: Copy + Ord + Debug + Display + Send + Sync;
    /// Its incarnation: the epoch of its registration.
    type Epoch: Copy + Ord + Debug + Display + Send + Sync;

    /// For messages and logs.
    const NAME: &'static str;
    /// The field of a request that names the process.
    const ID_FIELD: &'static str;

    /// Those that are not fenced.
    fn alive(image: &MetadataImage) -> impl Iterator<Item = Incarnation<Self>>;
    /// What fences one of them.
    fn fencing(of: Incarnation<Self>) -> Command;
}

/// A process at one incarnation.
pub type Incarnation<K> = (<K as Kind>::Id, <K as Kind>::Epoch);

/// Brokers.
pub enum Brokers {}

/// Coordinators.
pub enum Coordinators {}

// === impl Brokers ===

impl Kind for Brokers {
    type Id = BrokerId;
    type Epoch = BrokerEpoch;

    const NAME: &'static str = "broker";
    const ID_FIELD: &'static str = "broker_id";

    fn alive(image: &MetadataImage) -> impl Iterator<Item = Incarnation<Self>> {
        image.brokers().filter(|broker| !broker.fenced).map(|broker| (broker.id, broker.epoch))
    }

    fn fencing((id, epoch): Incarnation<Self>) -> Command {
        Command::FenceBroker(BrokerRef { id, epoch })
    }
}

// === impl Coordinators ===

impl Kind for Coordinators {
    type Id = CoordinatorId;
    type Epoch = CoordinatorEpoch;

    const NAME: &'static str = "coordinator";
    const ID_FIELD: &'static str = "coordinator_id";

    fn alive(image: &MetadataImage) -> impl Iterator<Item = Incarnation<Self>> {
        image.coordinators().filter(|one| !one.fenced).map(|one| (one.id, one.epoch))
    }

    fn fencing((id, epoch): Incarnation<Self>) -> Command {
        Command::FenceCoordinator(CoordinatorRef { id, epoch })
    }
}
