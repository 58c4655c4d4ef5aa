//! Leader election with a Lease: of several operators one acts, and another takes over when it is gone.
//!
//! As Kubernetes' own components do it: a lease counts as given up when its holder has not changed it for `duration`, by the clock of
//! who looks, so that clocks that differ do no harm. The holder stops acting when it could not renew it for `renew_deadline`, which is
//! shorter.

use crate::context::api_code;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use std::time::Duration;
use thalweg_runtime::Shutdown;
use tokio::time::{Instant, sleep, timeout};

/// Whose lease it is, and how long it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseConfig {
    /// The namespace that it is in.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// This operator's name: no other has it.
    pub identity: String,
    /// How long others wait for a holder that is silent.
    pub duration: Duration,
    /// How long the holder acts without being able to renew it.
    pub renew_deadline: Duration,
    /// How often it is renewed, or asked for.
    pub retry: Duration,
}

impl LeaseConfig {
    /// With Kubernetes' own times: 15 s, 10 s, 2 s.
    pub fn new(namespace: &str, name: &str, identity: &str) -> LeaseConfig {
        LeaseConfig {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// The lease as it was seen last, and since when it has been so.
struct Sighting {
    version: Option<String>,
    since: Instant,
}

/// Takes part in the election.
pub struct Election {
    config: LeaseConfig,
    leases: Api<Lease>,
    seen: Option<Sighting>,
    /// When the request was sent with which it was written last: others count from when they see that, which is later.
    renewed: Instant,
}

/// What to do about a lease.
#[derive(Debug, PartialEq, Eq)]
enum Move {
    /// Nobody has made it yet.
    Create,
    /// It is ours, or nobody's: write it anew.
    Take,
    /// Somebody else has it.
    Wait,
}

impl Election {
    /// Takes no part yet.
    pub fn new(client: Client, config: LeaseConfig) -> Election {
        let leases = Api::namespaced(client, &config.namespace);
        Election { config, leases, seen: None, renewed: Instant::now() }
    }

    /// Waits until this operator is the one that acts. `false`: the shutdown came first.
    pub async fn acquire(&mut self, shutdown: &Shutdown) -> bool {
        loop {
            let begun = Instant::now();
            let tried = tokio::select! {
                tried = timeout(self.config.renew_deadline, self.attempt()) => tried,
                () = shutdown.triggered() => return false,
            };
            match tried {
                Ok(Ok(true)) => {
                    self.renewed = begun;
                    return true;
                }
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, lease = self.config.name, "the lease cannot be asked for")
                }
                Err(_) => tracing::warn!(lease = self.config.name, "kubernetes does not answer"),
            }
            tokio::select! {
                () = sleep(self.config.retry) => {}
                () = shutdown.triggered() => return false,
            }
        }
    }

    /// Keeps the lease until the shutdown, and gives it back. `false`: it is lost.
    pub async fn keep(&mut self, shutdown: &Shutdown) -> bool {
        loop {
            tokio::select! {
                () = sleep(self.config.retry) => {}
                () = shutdown.triggered() => {
                    self.release().await;
                    return true;
                }
            }
            let begun = Instant::now();
            let left = (self.renewed + self.config.renew_deadline).saturating_duration_since(begun);
            // One request that hangs does not take all the time there is.
            match timeout(left.min(self.config.renew_deadline / 2), self.attempt()).await {
                Ok(Ok(true)) => self.renewed = begun,
                Ok(Ok(false)) => return false,
                Ok(Err(error)) => {
                    tracing::warn!(%error, lease = self.config.name, "the lease was not renewed")
                }
                Err(_) => {}
            }
            if self.renewed.elapsed() >= self.config.renew_deadline {
                return false;
            }
        }
    }

    /// Writes the lease if it may. Gives whether it is ours.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let found = self.leases.get_opt(&self.config.name).await?;
        let written = match self.consider(found.as_ref(), Instant::now()) {
            Move::Wait => return Ok(false),
            Move::Create => {
                let lease = Lease {
                    metadata: ObjectMeta { name: Some(self.config.name.clone()), ..ObjectMeta::default() },
                    spec: Some(self.spec(None, &self.config.identity)),
                };
                self.leases.create(&PostParams::default(), &lease).await
            }
            Move::Take => {
                let mut lease = found.unwrap_or_default();
                lease.spec = Some(self.spec(lease.spec.as_ref(), &self.config.identity));
                self.leases.replace(&self.config.name, &PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(_) => Ok(true),
            // Another was quicker.
            Err(error) if matches!(api_code(&error), Some(404 | 409)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn consider(&mut self, found: Option<&Lease>, now: Instant) -> Move {
        let Some(found) = found else { return Move::Create };
        let version = found.metadata.resource_version.clone();
        if self.seen.as_ref().is_none_or(|seen| seen.version != version) {
            self.seen = Some(Sighting { version, since: now });
        }
        let holder = found.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        let silent =
            self.seen.as_ref().map_or(Duration::ZERO, |seen| now.saturating_duration_since(seen.since));
        if holder.is_empty() || holder == self.config.identity || silent >= self.config.duration {
            Move::Take
        } else {
            Move::Wait
        }
    }

    fn spec(&self, before: Option<&LeaseSpec>, holder: &str) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let same = before.is_some_and(|before| before.holder_identity.as_deref() == Some(holder));
        let transitions = before.and_then(|before| before.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: i32::try_from(self.config.duration.as_secs()).ok(),
            acquire_time: before
                .filter(|_| same)
                .and_then(|before| before.acquire_time.clone())
                .or(Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if same || before.is_none() {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..LeaseSpec::default()
        }
    }

    /// Gives the lease back, so that another need not wait. Not worth a word if it fails: then it runs out.
    async fn release(&mut self) {
        let give = async {
            let Some(mut lease) = self.leases.get_opt(&self.config.name).await? else { return Ok(()) };
            let ours = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
            if ours != Some(self.config.identity.as_str()) {
                return Ok(());
            }
            lease.spec = Some(self.spec(lease.spec.as_ref(), ""));
            self.leases.replace(&self.config.name, &PostParams::default(), &lease).await.map(drop)
        };
        let given: Result<Result<(), kube::Error>, _> = timeout(self.config.retry, give).await;
        if let Ok(Err(error)) = given {
            tracing::debug!(%error, "the lease was not given back");
        }
    }
}
