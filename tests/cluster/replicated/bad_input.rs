//! What a cluster refuses, by name, and without harm.

use crate::harness::{Cluster, Setup, eventually, refused, within};
use thalweg_core::ErrorCode;
use thalweg_proto::internal::v1::controller_service_client::ControllerServiceClient;
use thalweg_proto::internal::v1::{BrokerHeartbeatRequest, DescribeQuorumRequest};
use thalweg_proto::v1;
use tonic::Code;

fn reassign(topic: &str, replicas: &[i32]) -> v1::ReassignPartitionsRequest {
    let wanted =
        v1::PartitionReassignment { topic: topic.to_owned(), partition: 0, replicas: replicas.to_vec() };
    v1::ReassignPartitionsRequest { reassignments: vec![wanted], validate_only: false }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_cannot_be_are_refused() {
    let cluster = Cluster::start();
    cluster.create_topic("t", 1, &[]);
    let before = cluster.describe("t");
    let api = cluster.api(1).await;
    for factor in [4, 1_000, 0, -1] {
        let topic = v1::NewTopic { name: "n".into(), replication_factor: Some(factor), ..Default::default() };
        let error =
            refused(api.create(topic).await, Code::InvalidArgument, ErrorCode::InvalidReplicationFactor);
        assert!(error.field.is_some_and(|field| field.contains("replication_factor")));
    }
    cluster
        .cli(&["topic", "create", "n", "--replication-factor", "4"])
        .run()
        .refused(&["error: ", "replication"]);

    for (topic, replicas, wanted) in [
        ("t", &[1, 2, 9][..], ErrorCode::UnknownBroker),
        ("t", &[1, 1, 2], ErrorCode::InvalidRequest),
        ("t", &[-1], ErrorCode::UnknownBroker),
        ("none", &[1], ErrorCode::UnknownTopic),
        ("t", &[], ErrorCode::NoReassignmentInProgress),
    ] {
        let mut admin = api.admin.clone();
        let answer = within("ReassignPartitions", admin.reassign_partitions(reassign(topic, replicas)));
        let code = match answer.await {
            Ok(answer) => {
                let error = answer.into_inner().results.remove(0).error.expect("it is refused");
                ErrorCode::from_number(error.code)
            }
            Err(status) => thalweg_proto::ApiError::from_status(&status).map(|error| error.code),
        };
        assert_eq!(code, Some(wanted), "{topic} {replicas:?}");
    }
    cluster.cli(&["topic", "reassign", "t", "--replicas", "1,2,9"]).run().refused(&[
        "error: ",
        "9",
        "hint: ",
        "broker list",
    ]);
    cluster.cli(&["broker", "drain", "9"]).run().refused(&["error: ", "9"]);
    cluster.cli(&["broker", "unregister", "9"]).run().refused(&["error: ", "9"]);
    assert_eq!(cluster.describe("t"), before, "nothing has changed");
}

#[test]
fn a_broker_id_is_taken_once() {
    let mut cluster = Cluster::start_with(Setup { controllers: 1, brokers: 1, ..Setup::default() });
    let endpoint = cluster.endpoint(1).to_owned();
    cluster.new_broker(1, &[]);
    // The second one of that name: other ports, another folder.
    let elsewhere = cluster.broker_dir(1).with_file_name("broker-1-again");
    let twin = cluster.last_broker();
    twin.set_flag("--data-dir", elsewhere.to_str().unwrap());
    twin.spawn();
    let status = twin.wait();
    assert_eq!(status.code(), Some(1), "{}", twin.stderr_tail());
    let said = twin.stderr_tail();
    assert!(said.contains("error: ") && said.contains("broker 1") || said.contains("DUPLICATE"), "{said}");
    let described = cluster.describe_cluster();
    assert_eq!(described["brokers"][0]["endpoint"], endpoint, "the first one keeps its place");
    cluster.cli_at(1, &["topic", "create", "t"]).run().ok();
}

#[test]
fn a_folder_or_a_broker_of_another_cluster_is_refused() {
    let mut one = Cluster::start_with(Setup { controllers: 1, brokers: 1, ..Setup::default() });
    one.cli(&["topic", "create", "t"]).run().ok();
    one.broker(1).stop();
    let mut two = Cluster::start_with(Setup { controllers: 1, brokers: 1, ..Setup::default() });

    two.new_broker(2, &[]);
    two.broker(2).set_flag("--data-dir", one.broker_dir(1).to_str().unwrap());
    two.broker(2).spawn();
    assert_eq!(two.broker(2).wait().code(), Some(1), "{}", two.broker(2).stderr_tail());
    let said = two.broker(2).stderr_tail();
    assert!(said.contains("cluster"), "{said}");

    two.new_broker(3, &["--cluster-id", "no-such-cluster"]);
    two.broker(3).spawn();
    assert_eq!(two.broker(3).wait().code(), Some(1), "{}", two.broker(3).stderr_tail());
    assert!(two.broker(3).stderr_tail().contains("no-such-cluster"));

    // The folder is as it was: its own cluster takes it back.
    one.broker(1).start();
    assert_eq!(one.cli(&["topic", "list"]).run().ok().text(), "t\n");
    assert_eq!(two.describe_cluster()["brokers"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_of_an_earlier_incarnation_is_told_so() {
    let mut cluster = Cluster::start();
    let epoch_of = |cluster: &Cluster| cluster.describe_cluster()["brokers"][0]["epoch"].as_i64().unwrap();
    let before = epoch_of(&cluster);
    cluster.broker(1).kill();
    cluster.broker(1).start();
    assert!(epoch_of(&cluster) > before);
    let controllers: Vec<String> =
        cluster.voters().split(',').filter_map(|voter| Some(voter.split_once('@')?.1.to_owned())).collect();
    for endpoint in controllers {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{endpoint}")).unwrap();
        let mut controller = ControllerServiceClient::new(channel.connect().await.unwrap());
        let request = BrokerHeartbeatRequest { broker_id: 1, broker_epoch: before, ..Default::default() };
        let answer = within("BrokerHeartbeat", controller.broker_heartbeat(request)).await;
        let error = thalweg_proto::ApiError::from_status(&answer.unwrap_err()).expect("it says why");
        assert_eq!(error.code, ErrorCode::StaleBrokerEpoch, "{error}");
    }
    let health = cluster.cli(&["cluster", "health", "--timeout-ms", "30000"]).run();
    assert_eq!(health.code, 0, "{}", health.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_voter_stays() {
    let cluster = Cluster::start_with(Setup { controllers: 1, brokers: 1, ..Setup::default() });
    let api = cluster.api(1).await;
    let mut admin = api.admin.clone();
    let answer = within("RemoveVoter", admin.remove_voter(v1::RemoveVoterRequest { node_id: 1 }));
    let status = answer.await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(thalweg_proto::ApiError::from_status(&status).is_some(), "{status:?}");
    cluster.cli(&["cluster", "remove-voter", "1"]).run().refused(&["error: "]);
    cluster.cli(&["cluster", "remove-voter", "7"]).run().refused(&["error: ", "7"]);
    cluster.cli(&["topic", "create", "t"]).run().ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_with_another_list_of_voters_gets_nowhere() {
    let mut cluster = Cluster::start_with(Setup { brokers: 1, ..Setup::default() });
    let term = cluster.describe_cluster()["controller_term"].as_u64().unwrap();
    // It believes to have founded the group with two of the three.
    let founding = cluster.voters();
    let two: Vec<&str> = founding.split(',').take(2).collect();
    cluster.stray_controller(9, &two.join(","));
    eventually("it, or who it asks, says that the lists differ", || {
        let mut said = cluster.controller(9).stderr_tail();
        for controller in [1, 2] {
            said.push_str(&cluster.controller(controller).stderr_tail());
        }
        (said.contains("INVALID_VOTERS") || said.contains("founding")).then_some(())
    });
    assert_eq!(cluster.describe_cluster()["controller_term"].as_u64(), Some(term), "it disturbed nobody");
    cluster.cli(&["topic", "create", "t"]).run().ok();
    let endpoint = founding.split(',').next().unwrap().split_once('@').unwrap().1.to_owned();
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{endpoint}")).unwrap();
    let mut controller = ControllerServiceClient::new(channel.connect().await.unwrap());
    let quorum =
        within("DescribeQuorum", controller.describe_quorum(DescribeQuorumRequest::default())).await.unwrap();
    assert!(!format!("{quorum:?}").contains("node_id: 9"), "{quorum:?}");
}

#[test]
fn what_cannot_be_started_says_why() {
    let run = |args: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        crate::harness::Cli::new(args).args(["--data-dir"]).args([folder.path().join("data")]).run()
    };
    run(&["controller", "--node-id", "0"]).misused(&["1 or more"]);
    run(&["controller", "--node-id", "3", "--voters", "1@127.0.0.1:1,2@127.0.0.1:2"]).misused(&["3"]);
    run(&["controller", "--node-id", "1", "--voters", "nowhere"]).misused(&["--voters", "ID@HOST:PORT"]);
    run(&["controller", "--node-id", "1", "--join"]).misused(&["join"]);
    run(&["controller"]).misused(&["--node-id"]);
    run(&["broker", "--node-id", "1"]).misused(&["--controllers"]);
    run(&["broker", "--node-id", "-1", "--controllers", "127.0.0.1:1"]).misused(&["--node-id"]);
    run(&["broker", "--node-id", "1", "--controllers", "nowhere"]).misused(&["--controllers", "HOST:PORT"]);
    run(&["broker", "--node-id", "1", "--controllers", "127.0.0.1:1", "--listen", "0.0.0.0:0"])
        .misused(&["--advertise"]);
}
