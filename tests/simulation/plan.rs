//! What a run is to be: everything follows from this.

use serde_json::{Value, json};
use std::time::Duration;

/// Which faults are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// All kinds.
    Mixed,
    /// Mostly power cuts of all brokers at once.
    Blackouts,
    /// Mostly brokers that come back with an empty disk.
    Volumes,
    /// Mostly coordinators that are killed, cut off or slow.
    Coordinators,
}

impl Profile {
    const ALL: [Profile; 4] = [Profile::Mixed, Profile::Blackouts, Profile::Volumes, Profile::Coordinators];

    /// The profile of that name.
    pub fn named(name: &str) -> Option<Profile> {
        Profile::ALL.into_iter().find(|profile| profile.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Profile::Mixed => "mixed",
            Profile::Blackouts => "blackouts",
            Profile::Volumes => "volumes",
            Profile::Coordinators => "coordinators",
        }
    }
}

/// One run. Equal plans give equal runs, to the last message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Where all chance comes from.
    pub seed: u64,
    /// How long faults happen, after the topics are there.
    pub faults_for: Duration,
    /// Voters of the Raft group.
    pub controllers: usize,
    /// Brokers.
    pub brokers: usize,
    /// Which faults are drawn.
    pub profile: Profile,
    /// Whether there are coordinators, and consumer groups.
    pub groups: bool,
    /// The bug that is planted, if any.
    pub planted: Option<String>,
    /// Hash every message on the network too: slower.
    pub trace_network: bool,
}

/// How long a run of the set lasts, without its beginning and its end.
const USUAL: Duration = Duration::from_secs(300);

impl Plan {
    /// The usual cluster: three controllers, three brokers and two coordinators.
    pub fn new(seed: u64) -> Plan {
        Plan {
            seed,
            faults_for: USUAL,
            controllers: 3,
            brokers: 3,
            profile: Profile::Mixed,
            groups: true,
            planted: None,
            trace_network: false,
        }
    }

    /// The plan of a seed in a set: now and then with many faults of one kind, and mostly with groups.
    pub fn of_set(seed: u64) -> Plan {
        let profile = match seed % 6 {
            0 => Profile::Volumes,
            3 => Profile::Coordinators,
            5 => Profile::Blackouts,
            _ => Profile::Mixed,
        };
        // Some without groups: they are done in half the time.
        Plan { profile, groups: seed % 3 != 1, ..Plan::new(seed) }
    }

    /// As one line, for a child process.
    pub fn encode(&self) -> String {
        let Plan { seed, faults_for, controllers, brokers, profile, groups, planted, trace_network } = self;
        json!({
            "seed": seed, "faults_for": faults_for.as_secs(), "controllers": controllers, "brokers": brokers,
            "profile": profile.name(), "groups": groups, "planted": planted, "trace_network": trace_network,
        })
        .to_string()
    }

    /// What [`encode`](Plan::encode) wrote.
    pub fn decode(text: &str) -> Option<Plan> {
        let value: Value = serde_json::from_str(text).ok()?;
        Some(Plan {
            seed: value["seed"].as_u64()?,
            faults_for: Duration::from_secs(value["faults_for"].as_u64()?),
            controllers: value["controllers"].as_u64()? as usize,
            brokers: value["brokers"].as_u64()? as usize,
            profile: Profile::named(value["profile"].as_str()?)?,
            groups: value["groups"].as_bool()?,
            planted: value["planted"].as_str().map(str::to_owned),
            trace_network: value["trace_network"].as_bool()?,
        })
    }
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Simulated time.
    pub simulated: Duration,
    /// Faults that were injected.
    pub faults: u64,
    /// Records that were handed to producers.
    pub sent: u64,
    /// Records that were acknowledged.
    pub acknowledged: u64,
    /// Records that readers were given, members of groups among them, the drain not counted.
    pub read: u64,
    /// Offsets of groups that were committed, as far as clients know.
    pub commits: u64,
    /// What went wrong, a sentence each.
    pub anomalies: Vec<String>,
    /// A hash of all that was said and seen.
    pub digest: u64,
    /// How much that was.
    pub events: u64,
}

impl Outcome {
    /// As one line, for the parent process.
    pub fn encode(&self) -> String {
        let Outcome { simulated, faults, sent, acknowledged, read, commits, anomalies, digest, events } =
            self;
        json!({
            "simulated": simulated.as_millis() as u64, "faults": faults, "sent": sent, "acknowledged": acknowledged,
            "read": read, "commits": commits, "anomalies": anomalies, "digest": digest, "events": events,
        })
        .to_string()
    }

    /// What [`encode`](Outcome::encode) wrote.
    pub fn decode(text: &str) -> Option<Outcome> {
        let value: Value = serde_json::from_str(text).ok()?;
        let number = |name: &str| value[name].as_u64();
        Some(Outcome {
            simulated: Duration::from_millis(number("simulated")?),
            faults: number("faults")?,
            sent: number("sent")?,
            acknowledged: number("acknowledged")?,
            read: number("read")?,
            commits: number("commits")?,
            anomalies: value["anomalies"]
                .as_array()?
                .iter()
                .filter_map(|a| a.as_str().map(str::to_owned))
                .collect(),
            digest: number("digest")?,
            events: number("events")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_and_outcomes_pass_between_processes() {
        let plan = Plan { planted: Some("a bug".into()), ..Plan::new(u64::MAX) };
        assert_eq!(Plan::decode(&plan.encode()), Some(plan));
        let outcome =
            Outcome { faults: 3, digest: u64::MAX, anomalies: vec!["one".into()], ..Outcome::default() };
        assert_eq!(Outcome::decode(&outcome.encode()), Some(outcome));
        assert_eq!(Outcome::decode("panicked"), None);
    }
}
