//! The broker service: partition replicas, produce and fetch.
