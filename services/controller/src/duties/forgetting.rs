//! Coordinators that are gone are forgotten: at once when they had asked to stop, and after a while when they were fenced. They keep
//! nothing of their own, so nothing is lost, and one that comes after all registers as if for the first time.

use crate::quorum::Quorum;
use std::collections::BTreeMap;
use std::time::Duration;
use thalweg_core::metadata::command::CoordinatorRef;
use thalweg_core::metadata::{Command, MetadataImage};
use thalweg_core::{CoordinatorEpoch, CoordinatorId};
use tokio::time::{Instant, sleep_until};

/// How often it looks, when nothing changes.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Between two looks at least: an attempt that failed is made again then.
const PAUSE: Duration = Duration::from_secs(1);

/// Since when each has been fenced, as far as this leader knows: the next one counts anew.
type Gone = BTreeMap<(CoordinatorId, CoordinatorEpoch), Instant>;

/// Forgets them for as long as this controller leads; `after` zero: only those that had asked to stop.
pub async fn run(quorum: &Quorum, after: Duration) {
    let mut changed = quorum.published().feed.version();
    let mut gone = Gone::new();
    loop {
        changed.borrow_and_update();
        let image = quorum.published().image();
        let now = Instant::now();
        for coordinator in due(&image, &mut gone, after, now) {
            let command = Command::UnregisterCoordinator(coordinator);
            // Before the feature level is there they stay, as they always did.
            if command.check_level(image.feature_level()).is_err() {
                break;
            }
            match quorum.propose(&command).await {
                Ok(_) => tracing::info!(coordinator = %coordinator.id, "coordinator forgotten: it is gone"),
                Err(error) => {
                    tracing::warn!(coordinator = %coordinator.id, %error, "coordinator not forgotten yet");
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            ended = changed.changed() => if ended.is_err() {
                // Without the node this duty ends with the leadership.
                return std::future::pending().await;
            },
            () = sleep_until(now + LOOK_EVERY) => {}
        }
    }
}

/// Those whose time is over.
fn due(image: &MetadataImage, gone: &mut Gone, after: Duration, now: Instant) -> Vec<CoordinatorRef> {
    let fenced = |(id, epoch): &(CoordinatorId, CoordinatorEpoch)| {
        image.coordinator(*id).is_some_and(|one| one.epoch == *epoch && one.fenced)
    };
    gone.retain(|who, _| fenced(who));
    let mut due = Vec::new();
    for one in image.coordinators().filter(|one| one.fenced) {
        let since = *gone.entry((one.id, one.epoch)).or_insert(now);
        let is_over = !after.is_zero() && now.saturating_duration_since(since) >= after;
        if one.in_controlled_shutdown || is_over {
            due.push(CoordinatorRef { id: one.id, epoch: one.epoch });
        }
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_core::metadata::command::{InitCluster, RegisterCoordinator};
    use thalweg_core::metadata::image::FEATURE_LEVEL;
    use thalweg_core::metadata::{Response, apply};
    use thalweg_core::{ClusterId, MetadataVersion};

    fn run(image: &mut MetadataImage, command: Command) -> Response {
        let version = MetadataVersion(image.version().get() + 1);
        apply(image, version, &command).unwrap()
    }

    fn come(image: &mut MetadataImage, id: i32, incarnation: u8) -> CoordinatorRef {
        let register = RegisterCoordinator {
            id: CoordinatorId(id),
            cluster_id: None,
            incarnation: [incarnation; 16],
            endpoint: "c:1".parse().unwrap(),
            rack: None,
        };
        let Response::CoordinatorRegistered { epoch } = run(image, Command::RegisterCoordinator(register))
        else {
            panic!("a registration");
        };
        CoordinatorRef { id: CoordinatorId(id), epoch }
    }

    #[test]
    fn who_said_goodbye_is_due_at_once_and_who_was_lost_after_a_while() {
        let mut image = MetadataImage::new();
        let cluster_id = ClusterId("c".into());
        run(&mut image, Command::InitCluster(InitCluster { cluster_id, feature_level: FEATURE_LEVEL }));
        let (lost, polite, alive) = (come(&mut image, 1, 1), come(&mut image, 2, 1), come(&mut image, 3, 1));
        run(&mut image, Command::FenceCoordinator(lost));
        run(&mut image, Command::BeginCoordinatorShutdown(polite));
        let (mut gone, begun) = (Gone::new(), Instant::now());
        let after = Duration::from_secs(600);
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(due(&image, &mut gone, after, at(0)), [], "one that stops is not gone yet");
        run(&mut image, Command::FenceCoordinator(polite));
        assert_eq!(due(&image, &mut gone, after, at(1)), [polite]);
        run(&mut image, Command::UnregisterCoordinator(polite));
        assert_eq!(due(&image, &mut gone, after, at(599)), []);
        assert_eq!(due(&image, &mut gone, Duration::ZERO, at(9_999)), []);
        assert_eq!(due(&image, &mut gone, after, at(600)), [lost]);
        // One that came back and is lost again has its whole time again.
        let again = come(&mut image, 1, 2);
        assert_eq!(due(&image, &mut gone, after, at(601)), []);
        run(&mut image, Command::FenceCoordinator(again));
        assert_eq!(due(&image, &mut gone, after, at(700)), []);
        assert_eq!(due(&image, &mut gone, after, at(1_300)), [again]);
        assert!(image.coordinator(alive.id).is_some());
    }
}
