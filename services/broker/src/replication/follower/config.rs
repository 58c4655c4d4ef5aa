//! How a broker follows.

/// Bytes of batches that a leader may send ahead on its main stream.
pub const WINDOW_BYTES: u64 = 16 << 20;
/// Bytes of batches that a leader may send ahead on the catch-up stream.
pub const CATCH_UP_WINDOW_BYTES: u64 = 16 << 20;
/// `replication.throttled.rate`: bytes a second of all catch-up streams of a broker together.
pub const THROTTLED_RATE: u64 = 50 << 20;
/// A partition that is this many bytes behind goes on with the catch-up stream, so that it does not crowd out those that keep up.
pub const FAR_BEHIND_BYTES: u64 = 256 << 20;
/// A partition on the catch-up stream that is no more bytes behind than this goes back to the main stream.
pub const NEAR_BYTES: u64 = 16 << 20;

/// How a broker follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowerConfig {
    /// Default `WINDOW_BYTES`.
    pub window_bytes: u64,
    /// Default `CATCH_UP_WINDOW_BYTES`.
    pub catch_up_window_bytes: u64,
    /// `replication.throttled.rate`, in bytes a second; `None`: as fast as it goes. Default `THROTTLED_RATE`.
    pub throttled_rate: Option<u64>,
    /// Default `FAR_BEHIND_BYTES`.
    pub far_behind_bytes: u64,
    /// Default `NEAR_BYTES`.
    pub near_bytes: u64,
}

impl Default for FollowerConfig {
    fn default() -> FollowerConfig {
        FollowerConfig {
            window_bytes: WINDOW_BYTES,
            catch_up_window_bytes: CATCH_UP_WINDOW_BYTES,
            throttled_rate: Some(THROTTLED_RATE),
            far_behind_bytes: FAR_BEHIND_BYTES,
            near_bytes: NEAR_BYTES,
        }
    }
}
