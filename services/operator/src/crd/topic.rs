//! The `Topic` resource.
#![allow(
    clippy::duplicated_attributes,
    reason = "each printed column names its own type, and two may have the same"
)]

use super::{Condition, NamedRef};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// What becomes of the topic when its resource is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It stays, with all its records.
    // The default, because a resource is deleted by less than a decision: with its namespace, with the definition of its kind.
    #[default]
    Retain,
    /// It is deleted, with all its records.
    Delete,
}

/// A value of a topic's configuration: a text, or a whole number as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ConfigValue {
    /// A whole number.
    Number(i64),
    /// Anything else.
    Text(String),
}

impl fmt::Display for ConfigValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigValue::Number(number) => write!(f, "{number}"),
            ConfigValue::Text(text) => f.write_str(text),
        }
    }
}

impl JsonSchema for ConfigValue {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ConfigValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"x-kubernetes-int-or-string": true})
    }
}

/// A topic, as it shall be.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "thalweg.io",
    version = "v1alpha1",
    kind = "Topic",
    namespaced,
    shortname = "twt",
    category = "thalweg",
    status = "TopicStatus",
    derive = "PartialEq",
    doc = "A topic of a Thalweg cluster.",
    printcolumn(name = "Topic", type_ = "string", json_path = ".status.topicName"),
    printcolumn(name = "Partitions", type_ = "integer", json_path = ".status.partitions"),
    printcolumn(name = "Factor", type_ = "integer", json_path = ".status.replicationFactor"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Ready\")].message"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "has(self.clusterRef) != has(self.bootstrap)",
        "message": "name the cluster once: with clusterRef or with bootstrap"
    },
    {
        "rule": "has(self.topicName) == has(oldSelf.topicName) && (!has(self.topicName) || self.topicName == oldSelf.topicName)",
        "message": "topicName does not change: a topic cannot be renamed"
    },
    {
        "rule": "!has(oldSelf.replicationFactor) || (has(self.replicationFactor) && self.replicationFactor == oldSelf.replicationFactor)",
        "message": "replicationFactor does not change: give the partitions other replicas with `thalweg topic reassign`"
    },
    {
        "rule": "!has(self.topicName) || (self.topicName != '.' && self.topicName != '..' && !self.topicName.startsWith('__'))",
        "message": "topicName is neither '.' nor '..', and does not begin with '__', which is the system's own"
    }
]))]
pub struct TopicSpec {
    /// The Cluster resource, in this namespace, whose cluster the topic is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_ref: Option<NamedRef>,
    /// Instead of clusterRef: brokers to begin with, each host:port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 3, max = 300)))]
    pub bootstrap: Option<Vec<String>>,
    /// The topic's name, for names that Kubernetes does not allow. Default: the resource's own. Does not change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249), regex(pattern = r"^[a-zA-Z0-9._-]+$"))]
    pub topic_name: Option<String>,
    /// How many partitions. More can be asked for later, and move keys to other partitions; fewer cannot. Default: the cluster's, and
    /// then whatever the topic has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub partitions: Option<i32>,
    /// How many brokers hold each partition. Does not change. Default: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000))]
    pub replication_factor: Option<i32>,
    /// Keys of the topic's configuration that differ from their default. All others are at their default: a key that is removed here, or
    /// was set by somebody else, is returned to it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 100))]
    pub config: BTreeMap<String, ConfigValue>,
    /// What becomes of the topic when this resource is deleted: Retain keeps it with its records, Delete deletes both.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Only tell in status.pendingChanges what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// A topic, as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicStatus {
    /// The generation of the resource that was acted on last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: whether the topic is as asked for, and if not, why.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The topic's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_name: Option<String>,
    /// The topic's id. A topic of the same name with another id is not this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// The id of the cluster that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// How many partitions it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// How many brokers hold each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<i32>,
    /// What differs between the topic and what is asked for, and was not done: because it cannot be, or because of dryRun.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pending_changes: Vec<String>,
}
