//! The metadata names every controller with its address, so that whoever knows one finds the others.

use crate::peers::Peers;
use crate::quorum::Quorum;
use crate::service::Voters;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use thalweg_core::NodeId;
use thalweg_core::metadata::command::PutController;
use thalweg_core::metadata::{Command, Endpoint, MetadataImage};
use thalweg_raft::RaftStatus;
use tokio::sync::watch::{self, error::RecvError};
use tokio::time::sleep;

/// Pause between two looks, so that a peer that changes its mind all the time costs little.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps them right for as long as this controller leads.
pub async fn run(quorum: &Quorum, peers: &Peers, voters: &Voters) {
    let mut status = quorum.status();
    let mut heard = peers.changes();
    loop {
        heard.borrow_and_update();
        let members = members(&status.borrow_and_update());
        let right = note(quorum, peers, voters, &members).await;
        sleep(PAUSE).await;
        if !right {
            continue;
        }
        let gone = tokio::select! {
            changed = heard.changed() => changed.is_err(),
            changed = change(&mut status, &members) => changed.is_err(),
        };
        if gone {
            // Without the node this duty ends with the leadership.
            return std::future::pending().await;
        }
    }
}

/// Waits until the group has other members than these.
async fn change(status: &mut watch::Receiver<RaftStatus>, known: &BTreeSet<NodeId>) -> Result<(), RecvError> {
    status.wait_for(|status| members(status) != *known).await.map(|_| ())
}

fn members(status: &RaftStatus) -> BTreeSet<NodeId> {
    status.voters.iter().chain(&status.learners).copied().collect()
}

/// Notes what is to be noted; `false` if that must be tried again.
async fn note(quorum: &Quorum, peers: &Peers, voters: &Voters, members: &BTreeSet<NodeId>) -> bool {
    // While members change, the change itself keeps the addresses.
    let Ok(_changing) = voters.try_change() else { return false };
    let claimed = members.iter().filter_map(|id| Some((*id, peers.claimed(*id)?))).collect();
    let mut right = true;
    for command in plan(&quorum.published().image(), members, &claimed) {
        if let Err(error) = quorum.propose(&command).await {
            tracing::warn!(%error, "a controller's address is not noted yet");
            right = false;
        }
    }
    right
}

/// What must change so that the image names the members, and them alone, where they say they are.
fn plan(
    image: &MetadataImage,
    members: &BTreeSet<NodeId>,
    claimed: &BTreeMap<NodeId, Endpoint>,
) -> Vec<Command> {
    let noted: BTreeMap<NodeId, &Endpoint> = image.controllers().collect();
    let put = claimed
        .iter()
        .filter(|(id, endpoint)| noted.get(id) != Some(endpoint))
        .map(|(id, endpoint)| Command::PutController(PutController { id: *id, endpoint: endpoint.clone() }));
    let gone = noted.keys().filter(|id| !members.contains(id)).map(|id| Command::RemoveController(*id));
    put.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_core::metadata::apply;
    use thalweg_core::metadata::command::InitCluster;
    use thalweg_core::{ClusterId, MetadataVersion};

    #[test]
    fn the_image_follows_what_the_members_say() {
        let mut image = MetadataImage::new();
        let mut version = 0;
        let mut run = |image: &mut MetadataImage, commands: Vec<Command>| {
            for command in commands {
                version += 1;
                apply(image, MetadataVersion(version), &command).unwrap();
            }
        };
        let init = InitCluster { cluster_id: ClusterId("x".into()), feature_level: 1 };
        run(&mut image, vec![Command::InitCluster(init)]);
        let at = |text: &str| text.parse::<Endpoint>().unwrap();
        let mut members: BTreeSet<NodeId> = [1, 2, 3].map(NodeId).into();
        let mut claimed = BTreeMap::from([(NodeId(1), at("a:1")), (NodeId(2), at("b:1"))]);
        let commands = plan(&image, &members, &claimed);
        assert_eq!(commands.len(), 2, "nothing is known of the third");
        run(&mut image, commands);
        assert!(plan(&image, &members, &claimed).is_empty());
        claimed.insert(NodeId(2), at("b:2"));
        members.remove(&NodeId(1));
        claimed.remove(&NodeId(1));
        let commands = plan(&image, &members, &claimed);
        run(&mut image, commands);
        let noted: Vec<_> = image.controllers().map(|(id, at)| (id.get(), at.to_string())).collect();
        assert_eq!(noted, [(2, "b:2".to_owned())]);
    }
}
