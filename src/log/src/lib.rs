//! A partition's log on files: segments, indexes, recovery, retention, producer state.
