//! The flags of compaction, of whatever runs brokers.

use clap::Args;
use std::time::Duration;
use thalweg_broker::CleanerConfig;
use thalweg_broker::config::DEFAULT_CLEANER_THREADS;
use thalweg_log::DEFAULT_DEDUPE_BUFFER_BYTES;
use thalweg_runtime::config::{parse_bytes, parse_duration};

/// How a broker compacts logs.
#[derive(Debug, Clone, Copy, Args)]
pub struct CleanerArgs {
    /// Logs that a broker compacts at a time
    #[arg(long, env = "THALWEG_CLEANER_THREADS", value_name = "N", default_value_t = DEFAULT_CLEANER_THREADS)]
    pub cleaner_threads: usize,
    /// Memory for the keys of all logs that are being compacted, 32 bytes for a key; 1MiB for each thread at least
    #[arg(long, env = "THALWEG_CLEANER_DEDUPE_BUFFER", value_name = "BYTES", default_value_t = DEFAULT_DEDUPE_BUFFER_BYTES as u64, value_parser = parse_bytes)]
    pub cleaner_dedupe_buffer: u64,
    /// Bytes a second that all threads together read and write at most; with or without it they make way for appends whose syncs
    /// they slow down [default: no limit]
    #[arg(long, env = "THALWEG_CLEANER_IO_MAX_RATE", value_name = "BYTES", value_parser = parse_bytes)]
    pub cleaner_io_max_rate: Option<u64>,
    /// Between two looks for a log to compact, when there was none
    #[arg(long, env = "THALWEG_CLEANER_BACKOFF", value_name = "TIME", default_value = "15s", value_parser = parse_duration)]
    pub cleaner_backoff: Duration,
}

impl CleanerArgs {
    /// As a broker takes it, and checks it.
    pub fn config(self) -> CleanerConfig {
        CleanerConfig {
            threads: self.cleaner_threads,
            // More than an address space is no less than all of it.
            dedupe_buffer_bytes: usize::try_from(self.cleaner_dedupe_buffer).unwrap_or(usize::MAX),
            max_bytes_per_second: self.cleaner_io_max_rate,
            backoff: self.cleaner_backoff,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        cleaner: CleanerArgs,
    }

    #[test]
    fn without_flags_it_is_the_brokers_default_and_each_flag_arrives() {
        let read = |line: &str| Only::try_parse_from(line.split(' ')).map(|only| only.cleaner.config());
        assert_eq!(read("x").unwrap(), CleanerConfig::default());
        let all = "x --cleaner-threads 3 --cleaner-dedupe-buffer 64MiB --cleaner-io-max-rate 20MiB --cleaner-backoff 2s";
        let expected = CleanerConfig {
            threads: 3,
            dedupe_buffer_bytes: 64 << 20,
            max_bytes_per_second: Some(20 << 20),
            backoff: Duration::from_secs(2),
        };
        assert_eq!(read(all).unwrap(), expected);
        assert!(read("x --cleaner-io-max-rate fast").is_err());
    }
}
