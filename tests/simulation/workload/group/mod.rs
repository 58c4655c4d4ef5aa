//! Consumer groups: members join, read, commit, hang, freeze, crash, leave and come back, in each of the ways that the API has.

mod api;
mod bare;
mod sdk;
mod seat;
mod settle;
mod stream;
mod unary;

pub use settle::settle;

use crate::board::{Board, GROUPS, GroupPlan, Phase, partitions};
use crate::checker::OffsetRead;
use api::Api;
use seat::Seat;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::sleep;

/// How long a member lives.
const LIFE: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(70));
/// Between the end of one and the beginning of the next.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(4));

/// Starts a member of each group on a client machine, and on two of them somebody who looks at the offsets of one group.
pub fn consume(board: &Rc<Board>, bootstrap: &[String], index: usize) {
    for (place, group) in GROUPS.into_iter().enumerate() {
        tokio::task::spawn_local(member(Rc::clone(board), bootstrap.to_vec(), group, index));
        if index == place + 1 {
            board.history.borrow_mut().groups.groups.push((group.group, !group.auto));
            tokio::task::spawn_local(look(Rc::clone(board), bootstrap.to_vec(), group));
        }
    }
}

/// One life after another, until the run is over. Once nothing goes wrong any more a member stays.
async fn member(board: Rc<Board>, bootstrap: Vec<String>, group: GroupPlan, index: usize) {
    let mut dice = board.dice();
    board.reached(Phase::Faults).await;
    let seat = Seat::open(&board, &bootstrap, group, index, dice.next() as usize).await;
    while board.phase() < Phase::Done {
        let life = dice.time(LIFE.0, LIFE.1);
        match dice.below(5) {
            0 => stream::live(&seat, &mut dice, life).await,
            1 => unary::live(&seat, &mut dice, life).await,
            2 => sdk::live(&seat, &mut dice, life).await,
            _ => bare::live(&seat, &mut dice, life).await,
        }
        sleep(dice.time(PAUSE.0, PAUSE.1)).await;
    }
}

/// Reads the group's offsets again and again, from outside.
async fn look(board: Rc<Board>, bootstrap: Vec<String>, group: GroupPlan) {
    let mut dice = board.dice();
    board.reached(Phase::Faults).await;
    let api = Api::new(&bootstrap, dice.next() as usize);
    while board.phase() < Phase::Done {
        let asked = board.now();
        match api.offsets(group.name, None).await {
            Ok(offsets) => note(&board, group, asked, &offsets),
            Err(error) => {
                tracing::debug!(target: "thalweg_simulation", group = group.name, %error, "no offsets told");
            }
        }
        if dice.chance(20) {
            api.turn();
        }
        sleep(dice.time(Duration::from_millis(100), Duration::from_secs(2))).await;
    }
}

/// Writes down all offsets of a group as they were told.
fn note(
    board: &Board,
    group: GroupPlan,
    asked: Duration,
    offsets: &BTreeMap<crate::checker::Partition, i64>,
) {
    let at = board.now();
    for (partition, ..) in partitions() {
        let offset = offsets.get(&partition).copied();
        let read = OffsetRead { group: group.group, partition, asked, at, offset };
        board.history.borrow_mut().groups.reads.push(read);
    }
}
