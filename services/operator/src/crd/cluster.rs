//! The `Cluster` resource.
#![allow(
    clippy::duplicated_attributes,
    reason = "each printed column names its own type, and two may have the same"
)]

use super::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A resource of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NamedRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What becomes of a broker's volumes when the broker is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum VolumePolicy {
    /// They stay, empty of records, for a broker that takes the same place later.
    #[default]
    Retain,
    /// Their claims are deleted, once the pod is gone and the broker is forgotten.
    Delete,
}

/// The brokers of a cluster, as they shall be.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "thalweg.io",
    version = "v1alpha1",
    kind = "Cluster",
    namespaced,
    shortname = "twc",
    category = "thalweg",
    status = "ClusterStatus",
    derive = "PartialEq",
    doc = "The brokers of a Thalweg cluster.",
    scale(
        spec_replicas_path = ".spec.brokers",
        status_replicas_path = ".status.brokers",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Wanted", type_ = "integer", json_path = ".spec.brokers"),
    printcolumn(name = "Brokers", type_ = "integer", json_path = ".status.brokers"),
    printcolumn(name = "Live", type_ = "integer", json_path = ".status.readyBrokers"),
    printcolumn(name = "Draining", type_ = "integer", json_path = ".status.drainingBroker"),
    printcolumn(
        name = "Under-Replicated",
        type_ = "integer",
        json_path = ".status.underReplicatedPartitions"
    ),
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
        "rule": "self.statefulSet.name == oldSelf.statefulSet.name",
        "message": "statefulSet does not change: make another Cluster for another StatefulSet"
    },
    {
        "rule": "self.brokerIdOffset == oldSelf.brokerIdOffset",
        "message": "brokerIdOffset does not change: brokers keep their ids for life"
    }
]))]
pub struct ClusterSpec {
    /// How many brokers. Lowered, those with the highest numbers are drained and removed, one after the other.
    #[schemars(range(min = 1, max = 1_000))]
    pub brokers: i32,
    /// The StatefulSet, in this namespace, that runs the brokers. Does not change.
    pub stateful_set: NamedRef,
    /// Brokers to begin with, each host:port.
    #[schemars(length(min = 1, max = 16), inner(length(min = 3, max = 300)))]
    pub bootstrap: Vec<String>,
    /// A broker's id is the number of its pod (which begins with spec.ordinals.start of the StatefulSet) and this. Does not change.
    #[serde(default)]
    #[schemars(range(min = -1_000_000, max = 1_000_000))]
    pub broker_id_offset: i32,
    /// What becomes of the volumes of a broker that is removed: Retain keeps their claims, Delete deletes them.
    #[serde(default)]
    pub volumes: VolumePolicy,
}

/// The brokers of a cluster, as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterStatus {
    /// The generation of the resource that was acted on last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: as asked for, and balanced. Progressing: brokers come or go. Available: every partition has a leader.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Pods of the StatefulSet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brokers: Option<i32>,
    /// Brokers of the StatefulSet that the cluster holds for alive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_brokers: Option<i32>,
    /// The labels of the pods, for what scales by their load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The broker that is being removed: drained, stopped, forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draining_broker: Option<i32>,
    /// Replicas that it still holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draining_replicas_left: Option<i32>,
    /// Partitions that move at the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moving_partitions: Option<i32>,
    /// Since when nothing moves, after brokers came.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub quiet_since: Option<String>,
    /// The cluster's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// The controller that leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller_leader: Option<i64>,
    /// Partitions with fewer replicas in sync than they have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub under_replicated_partitions: Option<i32>,
    /// Partitions without leader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offline_partitions: Option<i32>,
}
