//! The server is killed in the middle of writes, again and again. What was acknowledged stays.

use crate::harness::{Acknowledged, Dev, Pace, Reading, Steady, dump_verify_all, log_files, reading};

const TOPIC: &str = "kills";
const PARTITIONS: u32 = 3;
/// Acknowledgements in front of a kill; each round adds some, so that kills hit different moments.
const ACKS_BEFORE: usize = 600;
/// Acknowledgements that must come after the restart, when the producer lived through it.
const ACKS_AFTER: usize = 300;
/// Rounds if `THALWEG_KILL_ROUNDS` does not say.
const ROUNDS: u64 = 3;

/// How often things are killed.
pub fn rounds(default: u64) -> u64 {
    match std::env::var("THALWEG_KILL_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("THALWEG_KILL_ROUNDS is a number"),
        Err(_) => default,
    }
}

#[test]
fn kill_rounds() {
    let rounds = rounds(ROUNDS);
    let mut dev = Dev::start();
    let partitions = PARTITIONS.to_string();
    let config = ["--config", "segment.bytes=1048576"];
    dev.cli(&["topic", "create", TOPIC, "--partitions", &partitions]).args(config).run().ok();
    let mut acknowledged = Acknowledged::default();
    for round in 0..rounds {
        // The producer lives through every other kill and goes on by itself.
        let killed = round % 2 == 1;
        let mut producer =
            Steady::start(&dev.addr().to_string(), None, TOPIC, PARTITIONS, &round.to_string(), Pace::FAST);
        producer.await_acks(ACKS_BEFORE + (round as usize * 137) % 500);
        dev.kill();
        if killed {
            producer.kill();
        }
        dev.restart_on_same_port();
        if !killed {
            producer.await_acks(producer.acknowledged() + ACKS_AFTER);
        }
        let sent = producer.finish(killed);
        let stored = read_all(&dev);
        println!(
            "round {round}: {} lines sent, {} acknowledged, {} records stored in all, producer {}",
            sent.lines(),
            sent.acks(),
            stored.values().map(Vec::len).sum::<usize>(),
            if killed { "killed too" } else { "lived on" },
        );
        acknowledged.add(&sent);
        acknowledged.check(&stored);
        sent.check(&stored, killed);
        assert!(dump_verify_all(dev.data_dir()) >= 3 * PARTITIONS as usize);
    }
    dev.stop();
    dump_verify_all(dev.data_dir());
    assert!(log_files(dev.data_dir(), &["log"]).len() > PARTITIONS as usize || rounds < 3, "segments rolled");
    dev.restart();
    acknowledged.check(&read_all(&dev));
}

fn read_all(dev: &Dev) -> Reading {
    let args = ["consume", TOPIC, "--from-beginning", "--timeout-ms", "2000", "-o", "json"];
    reading(&dev.cli(&args).run().ok().stdout)
}
