//! The disk is full: appends are refused, what is stored stays whole, and writing goes on when there is space.

use crate::harness::{Api, Dev, batch, dump_verify_all};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use thalweg_core::ErrorCode;
use thalweg_proto::ApiError;
use tonic::Code;

/// The size of the small disk.
const DISK: &str = "size=64m";
/// Bytes of each value.
const VALUE: usize = 200_000;

/// A small disk of memory. Unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where mounting is not permitted.
    fn mount(at: &Path) -> Option<SmallDisk> {
        std::fs::create_dir_all(at).unwrap();
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(at).output();
        match output {
            Ok(output) if output.status.success() => Some(SmallDisk(at.to_owned())),
            Ok(output) => {
                println!("skipped: no small disk: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("skipped: no small disk: {error}");
                None
            }
        }
    }

    /// Takes all space that is left, to the last block.
    fn fill(&self) {
        let mut file = File::create(self.0.join("ballast")).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_full_disk_refuses_appends_and_recovers() {
    let mount_point = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(mount_point.path()) else { return };
    let mut dev = Dev::start_with(tempfile::tempdir().unwrap(), disk.0.join("data"));
    let api = Api::connect(&dev).await;
    api.create_topic("t", 1, &[("segment.bytes", "1048576")]).await;
    let mut stored: Vec<Vec<u8>> = Vec::new();
    let value = |n: usize| {
        let mut value = n.to_string().into_bytes();
        value.resize(VALUE, b'.');
        value
    };
    for _ in 0..10 {
        append(&api, value(stored.len()), &mut stored).await.unwrap();
    }

    for round in 0..3 {
        disk.fill();
        // Some may still fit into blocks that are taken already; soon none does.
        let mut refusals = 0;
        while refusals < 5 {
            let Err(error) = append(&api, value(stored.len()), &mut stored).await else {
                assert!(stored.len() < 1000, "the disk is never full");
                continue;
            };
            println!("round {round}: {error}");
            assert_eq!(error.code, ErrorCode::StorageError, "{error}");
            refusals += 1;
        }
        assert!(
            api.values("t", 0).await == stored,
            "round {round}: full, but all that was acknowledged is served"
        );
        assert!(dev.is_running(), "{}", dev.stderr_tail());
        disk.free();
        append_soon(&api, value(stored.len()), &mut stored).await;
        append(&api, value(stored.len()), &mut stored).await.unwrap();
        assert!(api.values("t", 0).await == stored, "round {round}: nothing half-written is served");
    }

    // Killed while it is full: what was acknowledged is there when the space is.
    disk.fill();
    drop(append(&api, value(stored.len()), &mut stored).await);
    dev.kill();
    disk.free();
    dev.restart();
    let api = Api::connect(&dev).await;
    let served = api.values("t", 0).await;
    assert!(
        served.len() >= stored.len() && served[..stored.len()] == stored[..],
        "all that was acknowledged"
    );
    stored = served;
    append(&api, value(stored.len()), &mut stored).await.unwrap();
    dev.stop();
    dump_verify_all(dev.data_dir());
}

/// Appends one record and notes it if it was acknowledged.
async fn append(api: &Api, value: Vec<u8>, stored: &mut Vec<Vec<u8>>) -> Result<(), ApiError> {
    match api.produce_batch("t", 0, batch(&[&value])).await {
        Ok(result) => {
            assert_eq!(result.base_offset, stored.len() as i64, "a refused append takes no offset");
            stored.push(value);
            Ok(())
        }
        Err(status) => {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            Err(ApiError::from_status(&status).unwrap_or_else(|| panic!("{status:?}")))
        }
    }
}

/// The same, for as long as the server may need to see that there is space again.
async fn append_soon(api: &Api, value: Vec<u8>, stored: &mut Vec<Vec<u8>>) {
    for _ in 0..300 {
        if append(api, value.clone(), stored).await.is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("there is space, and appends are still refused");
}
