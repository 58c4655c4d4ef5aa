//! One shard: all groups of one partition of `__consumer_offsets`, as a pure machine.
