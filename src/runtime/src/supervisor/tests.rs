use std::io;

use super::*;

const SOON: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(30);

fn supervisor() -> Supervisor {
    Supervisor::new(Shutdown::new())
}

#[tokio::test]
async fn tasks_that_end_well_leave_no_failure() {
    let tasks = supervisor();
    tasks.spawn("unit", async {});
    tasks.spawn("result", async { Ok::<(), io::Error>(()) });
    assert_eq!(tasks.join(LONG).await, Ok(()));
    assert!(!tasks.shutdown().is_triggered());
    assert!(tasks.running().is_empty());
}

#[tokio::test]
async fn a_panic_is_named_and_shuts_the_service_down() {
    let tasks = supervisor();
    let shutdown = tasks.shutdown().clone();
    tasks.spawn_critical("waits", async move { shutdown.triggered().await });
    let number = 7;
    tasks.spawn("breaks", async move { assert!(number == 0, "at {number}") });
    let failure = TaskFailure { task: "breaks".into(), cause: FailureCause::Panicked("at 7".into()) };
    assert_eq!(tasks.join(LONG).await, Err(SupervisorError::Failed(failure.clone())));
    assert!(tasks.shutdown().is_triggered());
    assert_eq!(tasks.first_failure(), Some(failure));
    assert_eq!(tasks.failures(), 1);
}

#[tokio::test]
async fn an_error_is_told_with_its_sources() {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the log")]
    struct Outer(#[source] io::Error);

    let tasks = supervisor();
    tasks.spawn("opens", async { Err(Outer(io::Error::other("disk full"))) });
    let error = tasks.join(LONG).await.unwrap_err();
    assert_eq!(error.to_string(), "task `opens` failed: cannot open the log: disk full");
}

#[tokio::test]
async fn a_critical_task_may_not_end_early() {
    let tasks = supervisor();
    tasks.spawn_critical("serves", async {});
    let error = tasks.join(LONG).await.unwrap_err();
    assert!(matches!(error, SupervisorError::Failed(TaskFailure { cause: FailureCause::EndedEarly, .. })));
}

#[tokio::test]
async fn the_first_failure_is_kept() {
    let tasks = supervisor();
    tasks.spawn("first", async { Err::<(), _>("one") });
    tasks.shutdown().triggered().await;
    tasks.spawn("second", async { Err::<(), _>("two") });
    let error = tasks.join(LONG).await.unwrap_err();
    assert_eq!(error.to_string(), "task `first` failed: one");
    assert_eq!(tasks.failures(), 2);
}

#[tokio::test]
async fn a_stuck_task_is_named_and_aborted() {
    let tasks = supervisor();
    tasks.spawn("ends", async {});
    tasks.spawn("hangs", std::future::pending::<()>());
    tasks.shutdown().trigger();
    let Err(SupervisorError::Stuck { tasks: stuck, first: None, .. }) = tasks.join(SOON).await else {
        panic!("the hanging task must be reported");
    };
    assert_eq!(stuck, ["hangs"]);
    // The abort went through: nothing is left to wait for.
    assert_eq!(tasks.join(LONG).await, Ok(()));
    assert!(tasks.running().is_empty());
}
