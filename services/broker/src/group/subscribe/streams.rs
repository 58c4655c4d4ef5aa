//! Which members have a stream here: a second one for the same member takes over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use thalweg_core::group::{GroupId, MemberId};
use tokio::sync::oneshot;

type Key = (GroupId, MemberId);

/// The members that live on this broker's streams.
#[derive(Debug, Clone, Default)]
pub struct Streams {
    live: Arc<Mutex<Live>>,
}

#[derive(Debug, Default)]
struct Live {
    last: u64,
    // Dropping the sender ends the stream.
    streams: HashMap<Key, (u64, oneshot::Sender<()>)>,
}

/// One stream's place; dropping it gives it up.
#[derive(Debug)]
pub struct Place {
    streams: Streams,
    key: Key,
    number: u64,
    replaced: oneshot::Receiver<()>,
}

impl Streams {
    /// A stream begins. An earlier one of the same member ends.
    pub fn begin(&self, group: GroupId, member: MemberId) -> Place {
        let key = (group, member);
        let (sender, replaced) = oneshot::channel();
        let number = {
            // A map of handles is whole at every step.
            let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
            live.last += 1;
            let number = live.last;
            live.streams.insert(key.clone(), (number, sender));
            number
        };
        Place { streams: self.clone(), key, number, replaced }
    }
}

impl Place {
    /// Waits until another stream takes over. Safe to drop and call again, until it has ended.
    pub async fn replaced(&mut self) {
        let _ = (&mut self.replaced).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut live = self.streams.live.lock().unwrap_or_else(PoisonError::into_inner);
        if live.streams.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            live.streams.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn the_later_stream_of_a_member_ends_the_earlier_one() {
        let streams = Streams::default();
        let id = |member| (GroupId::new("g").unwrap(), MemberId::new(member).unwrap());
        let begin = |member| {
            let (group, member) = id(member);
            streams.begin(group, member)
        };
        let (mut first, mut other) = (begin("a"), begin("b"));
        assert!(first.replaced().now_or_never().is_none());
        let mut second = begin("a");
        assert!(first.replaced().now_or_never().is_some());
        drop(first);
        assert!(second.replaced().now_or_never().is_none() && other.replaced().now_or_never().is_none());
        drop((second, other));
        assert!(streams.live.lock().unwrap().streams.is_empty());
    }
}
