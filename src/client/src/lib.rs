//! The Rust SDK of Thalweg: producer, partition reader, admin.
