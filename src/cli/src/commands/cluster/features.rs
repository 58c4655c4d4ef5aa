//! `thalweg cluster features`.

use crate::args::{FeaturesCommand, Global, OutputFormat};
use crate::commands::refused;
use crate::error::CliError;
use crate::output::{print_json, print_line, table};
use serde_json::{Value, json};
use thalweg_client::{Admin, ClientError, proto};
use thalweg_core::ErrorCode;
use thalweg_core::metadata::features::WHAT_LEVELS_BRING;

/// Shows the levels, or raises the one in force.
pub async fn run(global: &Global, admin: &Admin, command: Option<FeaturesCommand>) -> Result<(), CliError> {
    match command {
        None => {
            let described = admin.describe_features().await.map_err(not_done)?;
            match global.output {
                OutputFormat::Text => text(&described).iter().try_for_each(|line| print_line(line)),
                OutputFormat::Json => print_json(&as_json(&described)),
            }
        }
        Some(FeaturesCommand::Upgrade { level, dry_run }) => {
            let done = admin.upgrade_features(level, dry_run).await.map_err(not_done)?;
            match global.output {
                OutputFormat::Text => print_line(&upgraded(&done, dry_run)),
                OutputFormat::Json => print_json(&json!({
                    "level": done.level,
                    "previous_level": done.previous_level,
                    "dry_run": dry_run,
                })),
            }
        }
    }
}

fn not_done(error: ClientError) -> CliError {
    match error.code() {
        Some(ErrorCode::IncompatibleFeatureLevel) => {
            CliError::failed(error).with_hint("see what each process supports: thalweg cluster features")
        }
        _ => refused(error, None),
    }
}

fn upgraded(done: &proto::UpgradeFeaturesResponse, dry_run: bool) -> String {
    let (level, before) = (done.level, done.previous_level);
    match dry_run {
        _ if level == before => format!("the feature level is {level} already"),
        true => format!("the feature level can be raised from {before} to {level}"),
        false => format!("the feature level is raised from {before} to {level}"),
    }
}

fn text(described: &proto::DescribeFeaturesResponse) -> Vec<String> {
    let mut rows = vec![["PROCESS", "SUPPORTS", "STATE"].map(str::to_owned).to_vec()];
    for one in &described.processes {
        let supports = match (one.known, one.min_level, one.max_level) {
            (false, _, _) => "unknown".to_owned(),
            (true, min, max) if min == max => min.to_string(),
            (true, min, max) => format!("{min}-{max}"),
        };
        let state = if one.fenced { "gone" } else { "alive" };
        rows.push(vec![format!("{} {}", kind(one), one.id), supports, state.to_owned()]);
    }
    let mut lines = vec![format!("FeatureLevel: {}\tNewest: {}", described.level, described.newest_level)];
    lines.extend(table(&rows));
    for (level, what) in (1u32..).zip(WHAT_LEVELS_BRING) {
        if level > described.level && level <= described.newest_level {
            lines.push(format!("level {level} brings: {what}"));
        }
    }
    lines
}

fn as_json(described: &proto::DescribeFeaturesResponse) -> Value {
    let level = |one: &proto::FeatureSupport, level: u32| one.known.then_some(level);
    let process = |one: &proto::FeatureSupport| {
        json!({
            "kind": kind(one),
            "id": one.id,
            "min_level": level(one, one.min_level),
            "max_level": level(one, one.max_level),
            "fenced": one.fenced,
        })
    };
    json!({
        "level": described.level,
        "newest_level": described.newest_level,
        "processes": described.processes.iter().map(process).collect::<Vec<_>>(),
    })
}

fn kind(one: &proto::FeatureSupport) -> &'static str {
    match one.kind() {
        proto::ProcessKind::Controller => "controller",
        proto::ProcessKind::Broker => "broker",
        proto::ProcessKind::Coordinator => "coordinator",
        proto::ProcessKind::Unspecified => "process",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_did_not_say_is_not_made_up() {
        let silent = proto::FeatureSupport { id: 3, fenced: true, ..Default::default() };
        let broker = proto::ProcessKind::Broker.into();
        let old = proto::FeatureSupport {
            kind: broker,
            id: 1,
            known: true,
            min_level: 1,
            max_level: 1,
            fenced: false,
        };
        let new = proto::FeatureSupport { id: 2, max_level: 2, ..old };
        let described = proto::DescribeFeaturesResponse {
            level: 1,
            newest_level: 2,
            processes: vec![old, new, silent],
            ..Default::default()
        };
        let lines = text(&described);
        assert_eq!(lines[0], "FeatureLevel: 1\tNewest: 2");
        for expected in
            [["broker 1", "1", "alive"], ["broker 2", "1-2", "alive"], ["process 3", "unknown", "gone"]]
        {
            let has = |line: &&String| expected.iter().all(|word| line.contains(word));
            assert!(lines[1..].iter().any(|line| has(&line)), "{expected:?}: {lines:#?}");
        }
        assert!(lines.last().unwrap().starts_with("level 2 brings: "), "{lines:#?}");
        assert_eq!(as_json(&described)["processes"][2]["max_level"], Value::Null);
        let done = proto::UpgradeFeaturesResponse { level: 2, previous_level: 1, metadata_version: 0 };
        assert_eq!(upgraded(&done, true), "the feature level can be raised from 1 to 2");
        assert_eq!(upgraded(&done, false), "the feature level is raised from 1 to 2");
    }
}
