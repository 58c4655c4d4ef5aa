//! `thalweg group`: look at consumer groups, and move or forget what they committed.

mod describe;
mod offsets;

use super::connect;
use crate::args::{Global, GroupArgs, GroupCommand, OutputFormat, StateArg};
use crate::error::CliError;
use crate::output::{print_json, print_line, table};
use serde_json::{Value, json};
use thalweg_client::{Admin, ClientError, proto};
use thalweg_core::ErrorCode;

/// Runs one of its subcommands.
pub async fn run(global: &Global, args: GroupArgs) -> Result<(), CliError> {
    let admin = connect(global).await?.admin();
    match args.command {
        GroupCommand::List { states } => list(global, &admin, &states).await,
        GroupCommand::Describe { groups } => describe::run(global, &admin, &groups).await,
        GroupCommand::ResetOffsets(args) => offsets::reset(global, &admin, args).await,
        GroupCommand::Delete { groups } => delete(global, &admin, &groups).await,
        GroupCommand::DeleteOffsets { group, topics } => {
            offsets::delete(global, &admin, &group, &topics).await
        }
    }
}

async fn list(global: &Global, admin: &Admin, states: &[StateArg]) -> Result<(), CliError> {
    let states: Vec<proto::GroupState> = states.iter().map(|state| asked(*state)).collect();
    let groups = admin.list_groups(&states).await.map_err(|error| not_done(error, None))?;
    match global.output {
        OutputFormat::Text => {
            let mut rows = vec![["GROUP", "STATE", "MEMBERS"].map(str::to_owned).to_vec()];
            rows.extend(groups.iter().map(|group| {
                vec![group.group_id.clone(), state_name(group.state()).to_owned(), group.members.to_string()]
            }));
            table(&rows).iter().try_for_each(|line| print_line(line))
        }
        OutputFormat::Json => print_json(&Value::Array(
            groups
                .iter()
                .map(|group| {
                    json!({
                        "group": group.group_id,
                        "state": state_name(group.state()),
                        "members": group.members,
                    })
                })
                .collect(),
        )),
    }
}

async fn delete(global: &Global, admin: &Admin, groups: &[String]) -> Result<(), CliError> {
    // One call a group: those in front of the one that is refused are gone, and are told.
    for group in groups {
        admin.delete_group(group).await.map_err(|error| not_done(error, Some(group)))?;
        match global.output {
            OutputFormat::Text => print_line(&format!("deleted group {group}"))?,
            OutputFormat::Json => print_json(&json!({"group": group, "deleted": true}))?,
        }
    }
    Ok(())
}

/// A refusal, with what to do about it.
fn not_done(error: ClientError, group: Option<&str>) -> CliError {
    let code = error.code();
    let failed = CliError::failed(error);
    match code.and_then(|code| hint(code, group)) {
        Some(hint) => failed.with_hint(hint),
        None => failed,
    }
}

fn hint(code: ErrorCode, group: Option<&str>) -> Option<String> {
    let name = group.unwrap_or("GROUP");
    match code {
        ErrorCode::UnknownGroup => Some("see which there are: thalweg group list".to_owned()),
        ErrorCode::GroupNotEmpty => Some(format!(
            "stop its consumers first; a static member that is away counts until its session is over; see who they are: \
                 thalweg group describe {name}"
        )),
        ErrorCode::CoordinatorNotAvailable => {
            Some("is a coordinator running? See: thalweg cluster describe".to_owned())
        }
        ErrorCode::UnknownTopic => Some("see which there are: thalweg topic list".to_owned()),
        _ => None,
    }
}

/// One word for what a group is.
pub fn state_name(state: proto::GroupState) -> &'static str {
    match state {
        proto::GroupState::Unspecified => "unknown",
        proto::GroupState::Empty => "empty",
        proto::GroupState::Assigning => "assigning",
        proto::GroupState::Reconciling => "reconciling",
        proto::GroupState::Stable => "stable",
    }
}

fn asked(state: StateArg) -> proto::GroupState {
    match state {
        StateArg::Empty => proto::GroupState::Empty,
        StateArg::Assigning => proto::GroupState::Assigning,
        StateArg::Reconciling => proto::GroupState::Reconciling,
        StateArg::Stable => proto::GroupState::Stable,
    }
}
