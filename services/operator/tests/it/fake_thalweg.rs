//! A cluster in memory behind the operator's seam.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use thalweg_client::NewTopic;
use thalweg_core::ErrorCode;
use thalweg_operator::thalweg::{BrokerView, CallError, ClusterView, Connect, Thalweg, TopicView};

#[derive(Default)]
pub struct State {
    pub view: ClusterView,
    pub topics: BTreeMap<String, TopicView>,
    pub moving: usize,
    pub largest_factor: i32,
    /// What drain answers, if not what the broker holds.
    pub left_after_drain: Option<u32>,
    /// A broker that the controllers know, and that whoever describes the cluster has not heard of.
    pub unheard: Option<BrokerView>,
    /// Nobody answers.
    pub down: bool,
    /// The next change is refused with this.
    pub refuse: Option<ErrorCode>,
    calls: Vec<String>,
    created: u32,
    /// How often nobody answered: errors differ, as real ones do by how long something took.
    failures: u32,
}

/// A cluster of this id, whose brokers hold nothing.
pub fn fake_thalweg_state(id: &str, brokers: i32) -> State {
    let brokers = (1..=brokers).map(|id| BrokerView { id, ..BrokerView::default() }).collect();
    let view = ClusterView { id: id.to_owned(), controller_leader: 1, brokers, ..ClusterView::default() };
    State { view, largest_factor: 3, ..State::default() }
}

#[derive(Clone, Default)]
pub struct FakeThalweg(Arc<Mutex<State>>);

impl FakeThalweg {
    /// A cluster whose brokers hold so many replicas each.
    pub fn with_brokers(brokers: i32, replicas: u32) -> FakeThalweg {
        let fake = FakeThalweg::default();
        {
            let mut state = fake.lock();
            state.view.id = "cluster-1".to_owned();
            state.view.controller_leader = 2;
            state.largest_factor = 3;
        }
        (1..=brokers).for_each(|id| fake.join(id, replicas));
        fake
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn join(&self, id: i32, replicas: u32) {
        self.lock().view.brokers.push(BrokerView { id, replicas, ..BrokerView::default() });
    }

    pub fn broker(&self, id: i32, change: impl FnOnce(&mut BrokerView)) {
        let mut state = self.lock();
        change(state.view.brokers.iter_mut().find(|broker| broker.id == id).expect("a broker"));
    }

    /// The same, if there is such a broker.
    pub fn broker_if(&self, id: i32, change: impl FnOnce(&mut BrokerView)) {
        if let Some(found) = self.lock().view.brokers.iter_mut().find(|broker| broker.id == id) {
            change(found);
        }
    }

    /// The changes since the last call.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().calls)
    }

    pub fn topic_now(&self, name: &str) -> Option<TopicView> {
        self.lock().topics.get(name).cloned()
    }

    fn up(&self) -> Result<MutexGuard<'_, State>, CallError> {
        let mut state = self.lock();
        if state.down {
            state.failures += 1;
            let message = format!("nobody answered within 10.{:03}s", state.failures);
            return Err(CallError { code: None, retriable: true, message });
        }
        Ok(state)
    }

    fn change(&self, call: String) -> Result<MutexGuard<'_, State>, CallError> {
        let mut state = self.up()?;
        state.calls.push(call);
        match state.refuse.take() {
            Some(code) => Err(refused(code)),
            None => Ok(state),
        }
    }
}

fn refused(code: ErrorCode) -> CallError {
    let retriable = code.retriable() != thalweg_core::Retriable::No;
    CallError { code: Some(code), retriable, message: format!("the cluster says {}", code.as_str()) }
}

impl Connect for FakeThalweg {
    type Link = FakeThalweg;

    async fn connect(&self, _: &[String]) -> Result<FakeThalweg, CallError> {
        self.up().map(drop)?;
        Ok(self.clone())
    }

    fn forget(&self, _: &[String]) {}
}

impl Thalweg for FakeThalweg {
    async fn cluster(&self) -> Result<ClusterView, CallError> {
        Ok(self.up()?.view.clone())
    }

    async fn moving(&self) -> Result<usize, CallError> {
        Ok(self.up()?.moving)
    }

    async fn largest_factor(&self) -> Result<i32, CallError> {
        Ok(self.up()?.largest_factor)
    }

    async fn drain(&self, broker: i32, cancel: bool) -> Result<u32, CallError> {
        let mut state = self.change(format!("{} {broker}", if cancel { "undrain" } else { "drain" }))?;
        let left = state.left_after_drain;
        let State { view, unheard, .. } = &mut *state;
        let found = view.brokers.iter_mut().chain(unheard.iter_mut()).find(|one| one.id == broker);
        let found = found.ok_or_else(|| refused(ErrorCode::UnknownBroker))?;
        found.draining = !cancel;
        Ok(left.unwrap_or(found.replicas))
    }

    async fn unregister(&self, broker: i32) -> Result<(), CallError> {
        let mut state = self.change(format!("unregister {broker}"))?;
        let alive = |one: &BrokerView| one.id == broker && (!one.fenced || one.replicas > 0);
        if state.view.brokers.iter().any(alive) {
            return Err(refused(ErrorCode::InvalidRequest));
        }
        state.view.brokers.retain(|one| one.id != broker);
        Ok(())
    }

    async fn topic(&self, name: &str) -> Result<Option<TopicView>, CallError> {
        Ok(self.up()?.topics.get(name).cloned())
    }

    async fn create_topic(&self, topic: NewTopic) -> Result<(), CallError> {
        let mut state = self.change(format!("create {}", topic.name))?;
        state.created += 1;
        let view = TopicView {
            id: format!("topic-{}", state.created),
            partitions: topic.partitions.unwrap_or(1),
            replication_factor: topic.replication_factor.unwrap_or(1),
            configs: topic.configs,
        };
        state.topics.insert(topic.name, view);
        Ok(())
    }

    async fn grow_topic(&self, name: &str, total: i32) -> Result<(), CallError> {
        let mut state = self.change(format!("grow {name} to {total}"))?;
        state.topics.get_mut(name).ok_or_else(|| refused(ErrorCode::UnknownTopic))?.partitions = total;
        Ok(())
    }

    async fn configure_topic(
        &self,
        name: &str,
        set: BTreeMap<String, String>,
        unset: Vec<String>,
    ) -> Result<(), CallError> {
        let mut state = self.change(format!("configure {name}: set {set:?}, unset {unset:?}"))?;
        let topic = state.topics.get_mut(name).ok_or_else(|| refused(ErrorCode::UnknownTopic))?;
        topic.configs.extend(set);
        unset.iter().for_each(|key| drop(topic.configs.remove(key)));
        Ok(())
    }

    async fn delete_topic(&self, name: &str) -> Result<(), CallError> {
        self.change(format!("delete {name}"))?.topics.remove(name);
        Ok(())
    }
}
