//! The resources that the operator looks after: group `thalweg.io`, version `v1alpha1`.

mod cluster;
mod condition;
mod topic;

pub use cluster::{Cluster, ClusterSpec, ClusterStatus, NamedRef, VolumePolicy};
pub use condition::{Condition, ConditionStatus, MAX_MESSAGE, NewCondition, set_condition};
pub(crate) use condition::{seconds, steady};
pub use topic::{ConfigValue, DeletionPolicy, Topic, TopicSpec, TopicStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;
use std::fmt::Write;

/// The API group.
pub const GROUP: &str = "thalweg.io";
/// The prefix of labels, annotations and finalizers.
pub const FINALIZER: &str = "thalweg.io/topic";

/// The definitions to install, by name.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![Cluster::crd(), Topic::crd()]
}

/// The definitions as JSON values, by name, ready to be installed.
pub fn definitions_json() -> Vec<Value> {
    let json = |definition: &CustomResourceDefinition| {
        let mut json = serde_json::to_value(definition).expect("a definition has only what JSON knows");
        tidy(&mut json);
        json
    };
    definitions().iter().map(json).collect()
}

/// Mends what the generator of the schema does not know better.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            // To a rule, `has` is true of a field that is null: so none may be.
            map.remove("nullable");
            map.remove("title");
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = text.replace('\n', " ");
            }
            for bound in ["minimum", "maximum"] {
                if let Some(whole) =
                    map.get(bound).and_then(Value::as_f64).filter(|bound| bound.fract() == 0.0)
                {
                    map.insert(bound.to_owned(), Value::from(whole as i64));
                }
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// One definition as YAML, with its keys in a fixed order, as the chart holds it.
pub fn yaml(definition: &Value) -> String {
    let mut text = String::new();
    block(&mut text, definition, 0);
    text
}

/// A value in block style. Scalars and keys are written as JSON, which YAML reads as the same.
fn block(out: &mut String, value: &Value, depth: usize) {
    let pad = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                write(out, format_args!("{pad}{}:", plain(key)));
                nested(out, value, depth + 1);
            }
        }
        Value::Array(items) => {
            for item in items {
                write(out, format_args!("{pad}-"));
                match item {
                    Value::Object(map) if !map.is_empty() => {
                        let mut inner = String::new();
                        block(&mut inner, item, depth + 1);
                        // The first key stands behind the dash.
                        write(out, format_args!(" {}", inner.trim_start()));
                    }
                    _ => nested(out, item, depth + 1),
                }
            }
        }
        scalar => write(out, format_args!("{pad}{scalar}\n")),
    }
}

/// What stands behind a key or a dash.
fn nested(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            block(out, value, depth);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            block(out, value, depth);
        }
        Value::String(text) => write(out, format_args!(" {}\n", plain(text))),
        scalar => write(out, format_args!(" {scalar}\n")),
    }
}

/// Words that YAML would read as something else than a text.
const NOT_TEXT: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];

/// A text without quotes where nothing in it means something to YAML.
fn plain(text: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '-' | '_');
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(harmless)
        && !NOT_TEXT.contains(&text.to_ascii_lowercase().as_str());
    if plain { text.to_owned() } else { Value::from(text).to_string() }
}

fn write(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn a_value_becomes_yaml() {
        let value = json!({"a": 1, "b": {"c": [], "d": {}}, "e": ["x y", {"f": "no", "g": [true]}, []]});
        let text =
            "a: 1\nb:\n  c: []\n  d: {}\ne:\n  - \"x y\"\n  - f: \"no\"\n    g:\n      - true\n  - []\n";
        assert_eq!(yaml(&value), text);
    }

    /// The chart holds what the code says; `THALWEG_WRITE_DOCS=1` writes it anew.
    #[test]
    fn the_charts_definitions_are_the_codes() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../helm/thalweg/files/crds");
        for definition in definitions_json() {
            let name = definition["spec"]["names"]["plural"].as_str().unwrap();
            let path = folder.join(format!("{name}.yaml"));
            let text = format!("# Written from the code; do not edit.\n{}", yaml(&definition));
            if std::env::var_os("THALWEG_WRITE_DOCS").is_some() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            assert!(
                std::fs::read_to_string(&path).unwrap_or_default() == text,
                "{} is old; run THALWEG_WRITE_DOCS=1 cargo test -p thalweg-operator definitions",
                path.display()
            );
        }
    }

    #[test]
    fn the_definitions_have_what_kubectl_shows_and_scales_by() {
        let [cluster, topic]: [Value; 2] = definitions_json().try_into().unwrap();
        let version = &cluster["spec"]["versions"][0];
        let scale = &version["subresources"]["scale"];
        assert_eq!(scale["specReplicasPath"], ".spec.brokers");
        assert_eq!(scale["statusReplicasPath"], ".status.brokers");
        assert_eq!(scale["labelSelectorPath"], ".status.selector");
        let rules = &version["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"];
        assert!(rules.to_string().contains("oldSelf"), "{rules}");
        let version = &topic["spec"]["versions"][0];
        assert!(version["subresources"]["status"].is_object());
        let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
        assert!(spec["x-kubernetes-validations"].as_array().unwrap().len() >= 3, "{spec}");
        let value = &spec["properties"]["config"]["additionalProperties"];
        assert_eq!(value["x-kubernetes-int-or-string"], true, "{spec}");
        assert_eq!(spec["properties"]["deletionPolicy"]["default"], "Retain");
        assert_eq!(topic["metadata"]["name"], "topics.thalweg.io");
        assert!(!topic.to_string().contains("nullable") && !topic.to_string().contains("\\n"), "{topic}");
        assert_eq!(spec["properties"]["partitions"]["maximum"].as_i64(), Some(10_000));
    }
}
