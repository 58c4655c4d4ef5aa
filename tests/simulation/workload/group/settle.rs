//! After healing: every group has everything, has committed it, and is stable.

use super::api::{Api, deadline};
use crate::board::{Board, GROUPS, GroupPlan, Phase};
use crate::checker::behind;
use std::rc::Rc;
use std::time::Duration;
use thalweg_client::proto;
use tokio::time::sleep;

/// Waits until every group has been given what the drain found, has committed it and is stable, or until the run has had enough.
pub async fn settle(board: &Rc<Board>, bootstrap: &[String]) {
    let api = Api::new(bootstrap, 0);
    while board.phase() < Phase::Done {
        let mut why = Vec::new();
        for ((group, partition), (count, first)) in behind(&board.history.borrow()) {
            why.push(format!("group {} lacks {count} records of {} from {first} on", group.0, partition.0));
        }
        if why.is_empty() {
            for group in GROUPS {
                why.extend(unsettled(board, &api, group).await);
            }
        }
        if why.is_empty() {
            return;
        }
        *board.unsettled.borrow_mut() = why.join("; ");
        sleep(Duration::from_millis(500)).await;
    }
}

/// Why a group is not where it shall be.
async fn unsettled(board: &Board, api: &Api, group: GroupPlan) -> Option<String> {
    let asked = board.now();
    let offsets = match api.offsets(group.name, None).await {
        Ok(offsets) => offsets,
        Err(error) => return Some(format!("the offsets of {}: {error}", group.name)),
    };
    super::note(board, group, asked, &offsets);
    for drain in &board.history.borrow().drains {
        let end = drain.records.last().map(|(offset, _)| offset + 1);
        if offsets.get(&drain.partition).copied() < end {
            let committed = offsets.get(&drain.partition);
            return Some(format!(
                "{} has committed {committed:?} of {end:?} in {}",
                group.name, drain.partition.0
            ));
        }
    }
    let mut service = api.service();
    let request = proto::DescribeGroupsRequest { group_ids: vec![group.name.to_owned()] };
    let call = async move { service.describe_groups(deadline(request)).await };
    match api.within(Duration::ZERO, call).await {
        Ok(answer) => {
            let described = answer.groups.into_iter().next()?;
            let state = described.group.as_ref().map(proto::GroupDescription::state);
            let stable = state == Some(proto::GroupState::Stable);
            (!stable).then(|| format!("{} is {state:?}, {:?}", group.name, described.error))
        }
        Err(error) => Some(format!("the state of {}: {error}", group.name)),
    }
}
