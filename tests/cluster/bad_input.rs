//! Bad input gets the named code and a message that helps; the server lives on, and nothing stored is harmed.

mod batches;
mod bombs;
mod canary;
mod data_folders;
mod full_disk;
mod half_messages;
mod offsets;
mod port;
mod producers;
mod sizes;
mod topics;
