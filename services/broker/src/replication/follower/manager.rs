//! Hands each partition that is followed to the stream on which it is.

use super::config::FollowerConfig;
use super::link::{Link, LinkSeams, Moves, Order, Orders};
use super::pace::Pace;
use super::stream::Class;
use super::{Assignment, Target};
use crate::metadata::MetadataStore;
use crate::replicas::{Partition, ReplicaManager};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use thalweg_core::{BrokerEpoch, BrokerId, Clock, ClusterId, LeaderEpoch, TopicPartition};
use thalweg_runtime::Shutdown;
use thalweg_runtime::dial::Dialer;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

/// What the follower side works with.
#[derive(Clone)]
pub struct FollowerSeams {
    /// This broker.
    pub me: BrokerId,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// Connects to leaders.
    pub dialer: Dialer,
    /// Where leaders are.
    pub metadata: Arc<MetadataStore>,
    /// The epoch of this process's own registration. The metadata may name a newer one: that of another process under this
    /// broker's id, for which this one must not pass.
    pub own_epoch: watch::Receiver<Option<BrokerEpoch>>,
    /// The partitions here.
    pub replicas: Arc<ReplicaManager>,
    /// The wall clock, for logs.
    pub clock: Arc<dyn Clock>,
    /// How to follow.
    pub config: FollowerConfig,
}

impl std::fmt::Debug for FollowerSeams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FollowerSeams").field("me", &self.me).finish_non_exhaustive()
    }
}

/// Where a partition is followed.
#[derive(Debug)]
struct Home {
    partition: Arc<Partition>,
    leader: BrokerId,
    class: Class,
    epoch: LeaderEpoch,
}

struct Router {
    seams: LinkSeams,
    homes: HashMap<TopicPartition, Home>,
    links: BTreeMap<(BrokerId, Class), Arc<Orders>>,
    running: JoinSet<()>,
    shutdown: Shutdown,
}

/// Follows the leaders of all partitions that this broker does not lead, until the shutdown. Begin it before the first image is
/// reconciled or after, as you like: what was assigned meanwhile is kept.
///
/// Errors: a stream's task panicked.
pub async fn follow_leaders(seams: FollowerSeams, shutdown: Shutdown) -> Result<(), JoinError> {
    let assignments = Arc::clone(seams.replicas.assignments());
    let metadata = Arc::clone(&seams.metadata);
    let mut versions = metadata.watch();
    let me = seams.me;
    let mut registrations = seams.own_epoch.clone();
    let (own_epoch, epochs) = watch::channel(None);
    let moves = Arc::new(Moves::default());
    let pace = Pace::new(seams.config.throttled_rate).counted(Arc::clone(seams.replicas.catch_up()));
    let seams = LinkSeams { seams, known_epoch: epochs, moves: Arc::clone(&moves), pace };
    let mut router = Router {
        seams,
        homes: HashMap::new(),
        links: BTreeMap::new(),
        running: JoinSet::new(),
        shutdown: shutdown.clone(),
    };
    loop {
        let own: Option<BrokerEpoch> = *registrations.borrow_and_update();
        let known = own.filter(|own| metadata.image().broker(me).is_some_and(|broker| broker.epoch == *own));
        own_epoch.send_if_modified(|before| std::mem::replace(before, known) != known);
        for (name, assignment) in assignments.take() {
            router.assign(name, assignment);
        }
        for (name, moved) in moves.take() {
            router.moved(name, moved.epoch, moved.to);
        }
        tokio::select! {
            biased;
            () = shutdown.triggered() => break,
            () = assignments.wait() => {}
            () = moves.wait() => {}
            changed = versions.changed() => if changed.is_err() { break },
            // Once it is certain that there is no other any more, the one that is known holds.
            Ok(()) = registrations.changed() => {}
            // A link ends by the shutdown only.
            Some(ended) = router.running.join_next() => ended?,
        }
    }
    while let Some(ended) = router.running.join_next().await {
        ended?;
    }
    Ok(())
}

impl Router {
    fn assign(&mut self, name: TopicPartition, assignment: Assignment) {
        let Assignment { partition, target } = assignment;
        let before = self.homes.remove(&name);
        let Some(Target { leader, epoch, adding }) = target else {
            if let Some(home) = before {
                self.order((home.leader, home.class), name, Order::Forget);
            }
            return;
        };
        let start = if adding { Class::CatchUp } else { Class::Main };
        let class = match &before {
            Some(home) if home.leader == leader && Arc::ptr_eq(&home.partition, &partition) => home.class,
            _ => start,
        };
        if let Some(home) = before.filter(|home| (home.leader, home.class) != (leader, class)) {
            self.order((home.leader, home.class), name.clone(), Order::Forget);
        }
        self.order((leader, class), name.clone(), Order::Follow { partition: Arc::clone(&partition), epoch });
        self.homes.insert(name, Home { partition, leader, class, epoch });
    }

    /// A stream let go of a partition that belongs on the other one.
    fn moved(&mut self, name: TopicPartition, epoch: LeaderEpoch, to: Class) {
        let Some(home) = self.homes.get_mut(&name).filter(|home| home.epoch == epoch && home.class != to)
        else {
            return;
        };
        home.class = to;
        let (leader, partition) = (home.leader, Arc::clone(&home.partition));
        tracing::debug!(partition = %name, %leader, class = ?to, "goes on with the other stream");
        self.order((leader, to), name, Order::Follow { partition, epoch });
    }

    fn order(&mut self, to: (BrokerId, Class), name: TopicPartition, order: Order) {
        let (seams, running, shutdown) = (&self.seams, &mut self.running, &self.shutdown);
        let orders = self.links.entry(to).or_insert_with(|| {
            let orders = Arc::new(Orders::default());
            let link = Link::new(to.0, to.1, Arc::clone(&orders), seams.clone());
            running.spawn(link.run(shutdown.clone()));
            orders
        });
        orders.put(name, order);
    }
}
