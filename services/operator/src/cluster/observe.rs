//! What Kubernetes says of the StatefulSet and its pods.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::collections::BTreeSet;

/// What matters of a StatefulSet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetView {
    /// The replicas that it shall have.
    pub replicas: i32,
    /// The number of its first pod.
    pub first: i32,
    /// The pods that it has.
    pub pods: i32,
    /// The labels of its pods, as a selector.
    pub selector: String,
}

/// Reads a StatefulSet.
pub fn set_view(set: &StatefulSet) -> SetView {
    let spec = set.spec.as_ref();
    let ordinals = spec.and_then(|spec| spec.ordinals.as_ref());
    let labels = spec.and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    SetView {
        // One, if nothing is said: Kubernetes' default.
        replicas: spec.and_then(|spec| spec.replicas).unwrap_or(1),
        first: ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0),
        pods: set.status.as_ref().map_or(0, |status| status.replicas),
        selector: labels.join(","),
    }
}

/// The numbers of a StatefulSet's pods among others.
pub(super) fn ordinals<'a>(set: &str, pods: impl IntoIterator<Item = &'a Pod>) -> BTreeSet<i32> {
    let ordinal = |pod: &Pod| pod.name_any().strip_prefix(set)?.strip_prefix('-')?.parse().ok();
    pods.into_iter().filter_map(ordinal).collect()
}

/// Whether a pod is ready: then its broker is registered.
pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The claims of one pod of a StatefulSet, by the names of its templates.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<String> {
    let templates = set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_ref());
    let templates = templates.into_iter().flatten();
    templates.map(|claim| format!("{}-{}-{ordinal}", claim.name_any(), set.name_any())).collect()
}

/// Whether a pod mounts a claim. One that has ended does not.
pub(super) fn mounts(pod: &Pod, claim: &str) -> bool {
    let ended = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref()).into_iter().flatten();
    let named = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
    !matches!(ended, Some("Succeeded" | "Failed")) && named.into_iter().any(|one| one.claim_name == claim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_and_claims_follow_the_names() {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "demo-broker"},
            "spec": {
                "replicas": 4, "ordinals": {"start": 1}, "serviceName": "demo-broker",
                "selector": {"matchLabels": {"b": "2", "a": "1"}},
                "template": {},
                "volumeClaimTemplates": [{"metadata": {"name": "data-0"}}, {"metadata": {"name": "data-1"}}],
            },
            "status": {"replicas": 3},
        }))
        .unwrap();
        let view = SetView { replicas: 4, first: 1, pods: 3, selector: "a=1,b=2".to_owned() };
        assert_eq!(set_view(&set), view);
        assert_eq!(claims(&set, 4), ["data-0-demo-broker-4", "data-1-demo-broker-4"]);
        let pod =
            |name: &str| -> Pod { serde_json::from_value(json!({"metadata": {"name": name}})).unwrap() };
        let pods = ["demo-broker-1", "demo-broker-12", "demo-broker-x", "demo-brokers-2", "other-3"].map(pod);
        assert_eq!(ordinals("demo-broker", &pods), BTreeSet::from([1, 12]));
        let mut one = pods[0].clone();
        assert!(!is_ready(&one));
        for (status, ready) in [("False", false), ("True", true)] {
            one.status =
                serde_json::from_value(json!({"conditions": [{"type": "Ready", "status": status}]})).unwrap();
            assert_eq!(is_ready(&one), ready);
        }
        let mounting: Pod = serde_json::from_value(json!({
            "spec": {"containers": [], "volumes": [
                {"name": "a", "emptyDir": {}},
                {"name": "b", "persistentVolumeClaim": {"claimName": "data-0-demo-broker-4"}},
            ]},
        }))
        .unwrap();
        assert!(mounts(&mounting, "data-0-demo-broker-4") && !mounts(&mounting, "data-0-demo-broker-5"));
    }
}
