//! The leader's side: what it knows of its followers, the streams that it feeds, and the changes of ISR that it asks for.

pub mod state;
