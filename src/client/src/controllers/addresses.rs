//! Where the controllers are, and which of them is asked first.

use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::Arc;
use thalweg_core::NodeId;
use thalweg_core::metadata::MetadataImage;

/// Addresses of controllers, `host:port` each. Never empty.
#[derive(Debug)]
pub struct Addresses {
    // From the configuration: they stay, whatever the metadata says.
    configured: Vec<Arc<str>>,
    known: ArcSwap<Known>,
    favourite: ArcSwap<Arc<str>>,
}

#[derive(Debug)]
struct Known {
    all: Vec<Arc<str>>,
    by_id: BTreeMap<NodeId, Arc<str>>,
}

impl Addresses {
    /// The addresses of the configuration; at least one.
    pub fn new(configured: &[String]) -> Addresses {
        let configured = distinct(configured.iter().map(|address| address.as_str().into()));
        let first = configured.first().cloned().unwrap_or_else(|| "".into());
        let known = Known { all: configured.clone(), by_id: BTreeMap::new() };
        Addresses { configured, known: ArcSwap::from_pointee(known), favourite: ArcSwap::from_pointee(first) }
    }

    /// Takes over what the metadata says; `false` if that is nothing new.
    pub fn learn(&self, image: &MetadataImage) -> bool {
        let by_id: BTreeMap<NodeId, Arc<str>> =
            image.controllers().map(|(id, endpoint)| (id, endpoint.to_string().into())).collect();
        if self.known.load().by_id == by_id {
            return false;
        }
        let all = distinct(self.configured.iter().chain(by_id.values()).cloned());
        self.known.store(Arc::new(Known { all, by_id }));
        true
    }

    /// Every address, each once.
    pub fn all(&self) -> Vec<Arc<str>> {
        self.known.load().all.clone()
    }

    /// How many there are; at least 1.
    pub fn count(&self) -> usize {
        self.known.load().all.len().max(1)
    }

    /// Where that controller is, if the metadata says so.
    pub fn of(&self, id: NodeId) -> Option<Arc<str>> {
        self.known.load().by_id.get(&id).cloned()
    }

    /// Who is asked first.
    pub fn favourite(&self) -> Arc<str> {
        Arc::clone(&self.favourite.load())
    }

    /// Asks that one first from now on.
    pub fn favour(&self, address: &Arc<str>) {
        self.favourite.store(Arc::new(Arc::clone(address)));
    }

    /// Turns away from one that failed. If others did so meanwhile, nothing changes.
    pub fn turn_from(&self, failed: &Arc<str>) {
        let before = self.favourite.load();
        if **before == *failed {
            self.favourite.compare_and_swap(&before, Arc::new(self.after(failed)));
        }
    }

    /// The one behind that one, in a circle.
    pub fn after(&self, address: &Arc<str>) -> Arc<str> {
        let known = self.known.load();
        let at = known.all.iter().position(|other| other == address).map_or(0, |at| at + 1);
        known.all.get(at).or(known.all.first()).unwrap_or(address).clone()
    }
}

fn distinct(addresses: impl Iterator<Item = Arc<str>>) -> Vec<Arc<str>> {
    let mut all = Vec::new();
    for address in addresses {
        if !all.contains(&address) {
            all.push(address);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_core::metadata::command::{InitCluster, PutController};
    use thalweg_core::metadata::{Command, apply};
    use thalweg_core::{ClusterId, MetadataVersion};

    #[test]
    fn controllers_of_the_metadata_come_behind_those_of_the_configuration() {
        let addresses = Addresses::new(&["a:1".to_owned(), "b:1".to_owned(), "a:1".to_owned()]);
        assert_eq!((addresses.count(), &*addresses.favourite()), (2, "a:1"));
        let mut image = MetadataImage::new();
        let init = InitCluster { cluster_id: ClusterId("c".into()), feature_level: 1 };
        apply(&mut image, MetadataVersion(1), &Command::InitCluster(init)).unwrap();
        for (version, (id, endpoint)) in (2..).zip([(2, "b:1"), (3, "c:1")]) {
            let put = PutController { id: NodeId(id), endpoint: endpoint.parse().unwrap() };
            apply(&mut image, MetadataVersion(version), &Command::PutController(put)).unwrap();
        }
        assert!(addresses.learn(&image) && !addresses.learn(&image));
        assert_eq!(addresses.all(), ["a:1".into(), "b:1".into(), Arc::<str>::from("c:1")]);
        assert_eq!(addresses.of(NodeId(3)).as_deref(), Some("c:1"));
    }

    #[test]
    fn a_turn_goes_round_and_two_at_once_turn_once() {
        let addresses = Addresses::new(&["a:1".to_owned(), "b:1".to_owned()]);
        let first = addresses.favourite();
        addresses.turn_from(&first);
        addresses.turn_from(&first);
        assert_eq!(&*addresses.favourite(), "b:1");
        addresses.turn_from(&addresses.favourite());
        assert_eq!(&*addresses.favourite(), "a:1");
        addresses.favour(&"gone:1".into());
        addresses.turn_from(&"gone:1".into());
        assert_eq!(&*addresses.favourite(), "a:1");
    }
}
