//! Flags, environment and settings file: the first that says something wins.

use crate::harness::{Cluster, Live, Setup};
use std::net::TcpListener;

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn a_broker_takes_its_settings_from_flags_before_environment_before_file() {
    let cluster = Cluster::start_with(Setup { controllers: 1, brokers: 1, ..Setup::default() });
    let controller = cluster.voters().split_once('@').unwrap().1.to_owned();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("broker.toml");
    let (of_flag, of_environment) = (free_address(), free_address());
    let text = format!(
        "node-id = 7\nrack = \"of-the-file\"\nlisten = \"127.0.0.1:1\"\ninternal_listen = \"127.0.0.1:0\"\n\
         controllers = [\"{controller}\"]\ndata-dir = [\"{0}/a\", \"{0}/b\"]\nadvertise = \"of-the-file:1\"\n",
        home.path().display()
    );
    std::fs::write(&file, text).unwrap();
    let mut broker = Live::start_with_env(
        &["broker", "--config", file.to_str().unwrap(), "--listen", &of_flag],
        &[("THALWEG_LISTEN", &of_environment), ("THALWEG_ADVERTISE", "of-the-environment:2")],
    );
    let ready = String::from_utf8(broker.line()).unwrap();
    assert_eq!(ready, format!("ready on {of_flag}"), "{}", broker.stderr_text());
    let described = cluster.describe_cluster();
    let seven = described["brokers"].as_array().unwrap().iter().find(|broker| broker["id"] == 7).unwrap();
    assert_eq!((&seven["endpoint"], &seven["rack"]), (&"of-the-environment:2".into(), &"of-the-file".into()));
    assert!(home.path().join("b").is_dir(), "both folders of the file are used");
    broker.signal(rustix::process::Signal::TERM);
    assert!(broker.wait().success(), "{}", broker.stderr_text());
}

#[test]
fn a_controller_is_run_by_environment_alone() {
    let home = tempfile::tempdir().unwrap();
    let address = free_address();
    let folder = home.path().join("controller");
    let mut controller = Live::start_with_env(
        &["controller"],
        &[
            ("THALWEG_NODE_ID", "5"),
            ("THALWEG_LISTEN", &address),
            ("THALWEG_DATA_DIR", folder.to_str().unwrap()),
            ("THALWEG_VOTERS", &format!("5@{address}")),
        ],
    );
    let ready = String::from_utf8(controller.line()).unwrap();
    assert_eq!(ready, format!("ready on {address}"), "{}", controller.stderr_text());
    controller.signal(rustix::process::Signal::TERM);
    assert!(controller.wait().success(), "{}", controller.stderr_text());
}

#[test]
fn a_mistake_in_a_settings_file_is_named() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("broker.toml");
    std::fs::write(&file, "node-id = 1\ncontroler = \"a:1\"\n").unwrap();
    let args = ["broker", "--config", file.to_str().unwrap()];
    crate::harness::Cli::new(&args).run().misused(&["controler", "broker.toml"]);
    crate::harness::Cli::new(&["controller", "--config", "/nonexistent/x.toml"])
        .run()
        .misused(&["/nonexistent/x.toml"]);
}
