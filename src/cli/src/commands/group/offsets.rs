//! `thalweg group reset-offsets` and `delete-offsets`.

use super::not_done;
use crate::args::{Global, OutputFormat, ResetArgs, TopicChoice};
use crate::error::CliError;
use crate::output::{print_json, print_line, table};
use crate::time::now;
use serde_json::{Value, json};
use thalweg_client::proto::reset_offsets_request::To;
use thalweg_client::{Admin, proto};
use thalweg_core::ErrorCode;

/// Moves committed offsets, or shows where they would go.
pub async fn reset(global: &Global, admin: &Admin, args: ResetArgs) -> Result<(), CliError> {
    let execute = args.execute;
    let request = proto::ResetOffsetsRequest {
        group_id: args.group.clone(),
        topics: chosen(&args.topics),
        to: Some(target(&args)?),
        dry_run: !execute,
    };
    let results = admin.reset_offsets(request).await.map_err(|error| not_done(error, Some(&args.group)))?;
    match global.output {
        OutputFormat::Text => {
            rows(&results, execute).iter().try_for_each(|line| print_line(line))?;
            if !execute && !results.is_empty() {
                print_line("nothing was changed: add --execute to do it")?;
            }
        }
        OutputFormat::Json => print_json(&json!({
            "group": args.group,
            "executed": execute,
            "partitions": results.iter().map(as_json).collect::<Vec<_>>(),
        }))?,
    }
    refusals(
        results.iter().filter_map(|result| Some((&*result.topic, result.partition, result.error.as_ref()?))),
    )
}

fn target(args: &ResetArgs) -> Result<To, CliError> {
    let position = |spec: proto::OffsetSpec, timestamp_ms| {
        To::Position(proto::ListOffsetsPartition { spec: spec.into(), timestamp_ms, ..Default::default() })
    };
    let time = |timestamp_ms| position(proto::OffsetSpec::Timestamp, timestamp_ms);
    match args {
        ResetArgs { to_earliest: true, .. } => Ok(position(proto::OffsetSpec::Earliest, 0)),
        ResetArgs { to_latest: true, .. } => Ok(position(proto::OffsetSpec::Latest, 0)),
        ResetArgs { to_offset: Some(offset), .. } => Ok(To::Offset(*offset)),
        ResetArgs { shift_by: Some(shift), .. } => Ok(To::ShiftBy(*shift)),
        ResetArgs { to_time: Some(moment), .. } => Ok(time(moment.resolve(now()).as_millis())),
        ResetArgs { by_duration: Some(ago), .. } => {
            let millis = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
            Ok(time(now().saturating_add_millis(-millis).as_millis()))
        }
        // The parser asks for one of them; a variable that says "false" is none.
        _ => Err(CliError::usage(
            "say where to: --to-earliest, --to-latest, --to-offset, --to-time, --by-duration or --shift-by",
        )),
    }
}

fn rows(results: &[proto::ResetResult], execute: bool) -> Vec<String> {
    let after = if execute { "NEW-OFFSET" } else { "WOULD-BE" };
    let mut rows = vec![["TOPIC", "PARTITION", "OLD-OFFSET", after].map(str::to_owned).to_vec()];
    rows.extend(results.iter().map(|result| {
        vec![
            result.topic.clone(),
            result.partition.to_string(),
            result.before.map_or("-".to_owned(), |before| before.to_string()),
            match &result.error {
                None => result.after.to_string(),
                Some(error) => format!("not moved: {}", error.message),
            },
        ]
    }));
    table(&rows)
}

fn as_json(result: &proto::ResetResult) -> Value {
    json!({
        "topic": result.topic,
        "partition": result.partition,
        "before": result.before,
        "after": result.error.is_none().then_some(result.after),
        "error": result.error.as_ref().map(|error| &error.message),
    })
}

/// Forgets committed offsets.
pub async fn delete(
    global: &Global,
    admin: &Admin,
    group: &str,
    topics: &[TopicChoice],
) -> Result<(), CliError> {
    let results = admin.delete_offsets(group, chosen(topics)).await;
    let results = results.map_err(|error| not_done(error, Some(group)))?;
    match global.output {
        OutputFormat::Text => {
            for result in results.iter().filter(|result| result.error.is_none()) {
                print_line(&format!("{group} forgot its offset of {}-{}", result.topic, result.partition))?;
            }
            if results.is_empty() {
                print_line(&format!("{group} had committed nothing there"))?;
            }
        }
        OutputFormat::Json => print_json(&Value::Array(
            results
                .iter()
                .map(|result| {
                    json!({
                        "topic": result.topic,
                        "partition": result.partition,
                        "deleted": result.error.is_none(),
                        "error": result.error.as_ref().map(|error| &error.message),
                    })
                })
                .collect(),
        ))?,
    }
    refusals(
        results.iter().filter_map(|result| Some((&*result.topic, result.partition, result.error.as_ref()?))),
    )
}

fn chosen(topics: &[TopicChoice]) -> Vec<proto::TopicPartitions> {
    let one = |choice: &TopicChoice| proto::TopicPartitions {
        topic: choice.topic.clone(),
        partitions: choice.partitions.clone(),
        ..Default::default()
    };
    topics.iter().map(one).collect()
}

/// Fails with the first partition that was refused.
fn refusals<'a>(mut refused: impl Iterator<Item = (&'a str, i32, &'a proto::Error)>) -> Result<(), CliError> {
    match refused.next() {
        None => Ok(()),
        Some((topic, partition, why)) => {
            let code = ErrorCode::ALL.iter().copied().find(|code| *code as i32 == why.code);
            let failed = CliError::failed(format_args!("{topic}-{partition}: {}", why.message));
            Err(match code.and_then(|code| CliError::hint_for(code, Some(topic))) {
                Some(hint) => failed.with_hint(hint),
                None => failed,
            })
        }
    }
}
