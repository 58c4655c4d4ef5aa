//! What a process says of the feature levels that it supports.

use crate::ApiError;
use crate::internal::v1 as wire;
use thalweg_core::metadata::FeatureLevels;

impl wire::FeatureLevels {
    /// Those of this program.
    pub const OURS: wire::FeatureLevels =
        wire::FeatureLevels { min: FeatureLevels::OURS.min as u32, max: FeatureLevels::OURS.max as u32 };
}

/// The levels in a message; one without them is of an old version.
///
/// Errors: `INVALID_REQUEST` when they are no range.
pub fn levels(said: Option<wire::FeatureLevels>) -> Result<FeatureLevels, ApiError> {
    let wire::FeatureLevels { min, max } = said.unwrap_or_default();
    FeatureLevels::said(min, max).ok_or_else(|| {
        ApiError::invalid(
            "feature_levels",
            format!("feature levels go from 1 up, and not from {min} to {max}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_nothing_knows_the_first_level() {
        assert_eq!(levels(None).unwrap(), FeatureLevels::UNSAID);
        assert_eq!(levels(Some(wire::FeatureLevels::OURS)).unwrap(), FeatureLevels::OURS);
        for (min, max) in [(2, 1), (0, 1), (1, 70_000)] {
            assert!(levels(Some(wire::FeatureLevels { min, max })).is_err(), "{min} to {max}");
        }
    }
}
