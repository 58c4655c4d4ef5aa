//! Conditions, as Kubernetes' conventions want them.

use k8s_openapi::jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest message of a condition, in characters.
pub const MAX_MESSAGE: usize = 1_000;

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// That cannot be told.
    Unknown,
}

/// One thing that can be said of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about, such as Ready.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, in one word.
    pub reason: String,
    /// Why, in a sentence.
    pub message: String,
    /// The generation of the resource that this was said of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When the status changed last.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
}

/// What shall be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCondition {
    /// What it is about.
    pub type_: &'static str,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, in one word.
    pub reason: String,
    /// Why, in a sentence.
    pub message: String,
}

/// Says it. The time of the last transition stays unless the status differs.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    new: NewCondition,
    generation: Option<i64>,
    now: Timestamp,
) {
    let message = match new.message.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &new.message[..end]),
        None => new.message,
    };
    let before = conditions.iter().position(|condition| condition.type_ == new.type_);
    let since = before.map(|at| &conditions[at]).filter(|before| before.status == new.status);
    let condition = Condition {
        type_: new.type_.to_owned(),
        status: new.status,
        reason: new.reason,
        message,
        observed_generation: generation,
        last_transition_time: since
            .map_or_else(|| seconds(now), |before| before.last_transition_time.clone()),
    };
    match before {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

/// What is said again of a failure that lasts: its old words. Errors tell how long something was tried, and that is no news: written, it
/// would be a change of the resource, and that the occasion for the next try at once.
pub(crate) fn steady(conditions: &[Condition], new: NewCondition, generation: Option<i64>) -> NewCondition {
    let same = |before: &&Condition| {
        before.type_ == new.type_
            && before.status == new.status
            && before.reason == new.reason
            && before.observed_generation == generation
    };
    match conditions.iter().find(same) {
        Some(before) => NewCondition { message: before.message.clone(), ..new },
        None => new,
    }
}

/// A time as Kubernetes writes it: RFC 3339, whole seconds.
pub(crate) fn seconds(time: Timestamp) -> String {
    format!("{time:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_transition_stays_while_the_status_does() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let new = |status, message: &str| NewCondition {
            type_: "Ready",
            status,
            reason: "R".to_owned(),
            message: message.to_owned(),
        };
        let mut conditions = Vec::new();
        set_condition(&mut conditions, new(ConditionStatus::True, "a"), Some(1), at(1_700_000_000));
        set_condition(&mut conditions, new(ConditionStatus::True, "b"), Some(2), at(1_700_000_010));
        assert_eq!(conditions.len(), 1);
        assert_eq!(conditions[0].last_transition_time, "2023-11-14T22:13:20Z");
        assert_eq!((conditions[0].message.as_str(), conditions[0].observed_generation), ("b", Some(2)));
        let long = "x".repeat(5_000);
        set_condition(&mut conditions, new(ConditionStatus::False, &long), Some(2), at(1_700_000_020));
        assert_eq!(conditions[0].last_transition_time, "2023-11-14T22:13:40Z");
        assert_eq!(conditions[0].message.chars().count(), MAX_MESSAGE + 1);
    }
}
