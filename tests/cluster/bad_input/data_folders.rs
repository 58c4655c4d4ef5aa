//! Data folders that are not for this server: refused at the start, with the reason, and not touched.

use super::canary::Canary;
use crate::harness::{Api, Cli, Dev, Output};
use std::net::TcpListener;
use std::path::Path;

/// Starts a server that must not come up.
fn start(data_dir: &Path) -> Output {
    Cli::new(&["dev", "--listen", "127.0.0.1:0", "--data-dir"]).args([data_dir]).run()
}

/// A server with something stored, stopped.
async fn stopped() -> (Dev, Canary) {
    let mut dev = Dev::start();
    let canary = Canary::new(&Api::connect(&dev).await).await;
    dev.stop();
    (dev, canary)
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_folder_in_use_is_refused() {
    let mut dev = Dev::start();
    let api = Api::connect(&dev).await;
    let mut canary = Canary::new(&api).await;
    let folder = dev.data_dir().display().to_string();
    let output = start(dev.data_dir()).refused(&["error: ", "in use", &folder]);
    assert!(!output.text().contains("ready on"), "{}", output.text());
    canary.sings(&api).await;
    canary.sings_after_a_kill(&mut dev).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_folder_of_another_cluster_is_refused() {
    let (mut mine, mut canary) = stopped().await;
    let (other, _) = stopped().await;
    let mixed = tempfile::tempdir().unwrap();
    copy_folder(&mine.data_dir().join("logs"), &mixed.path().join("logs"));
    copy_folder(&other.data_dir().join("controller"), &mixed.path().join("controller"));
    start(mixed.path()).refused(&["error: ", "cluster"]);
    let kept = |folder: &Path| std::fs::read(folder.join("logs/canary-0/00000000000000000000.log")).unwrap();
    assert_eq!(kept(mixed.path()), kept(mine.data_dir()), "what was in it is not touched");

    mine.restart();
    canary.sings(&Api::connect(&mine).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_folder_of_another_node_or_a_newer_format_is_refused() {
    let (mut dev, mut canary) = stopped().await;
    let path = dev.data_dir().join("logs").join("meta.properties");
    let good = std::fs::read_to_string(&path).unwrap();
    let cases: [(&str, &str, &[&str]); 4] = [
        ("version=1", "version=99", &["format version 99"]),
        ("node.id=0", "node.id=7", &["node 7"]),
        ("cluster.id=", "cluster.id=x", &["cluster x"]),
        ("version=1", "what is this", &["meta.properties"]),
    ];
    for (from, to, words) in cases {
        let bad = good.replace(from, to);
        assert_ne!(bad, good, "{from} stands in the file");
        std::fs::write(&path, &bad).unwrap();
        start(dev.data_dir()).refused(words).refused(&["error: "]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), bad, "it is not mended");
    }
    std::fs::write(&path, good).unwrap();
    dev.restart();
    canary.sings(&Api::connect(&dev).await).await;
}

#[test]
fn a_folder_that_is_a_file_and_a_port_in_use_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "kept").unwrap();
    start(&file).refused(&["error: "]);
    assert_eq!(std::fs::read(&file).unwrap(), b"kept");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let data = folder.path().join("data");
    Cli::new(&["dev", "--listen", &addr, "--data-dir"]).args([&data]).run().refused(&["error: ", &addr]);
}
