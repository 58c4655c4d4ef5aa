//! The RPCs a server knows, and which of them are unary, read from its descriptors.

use std::collections::{HashMap, HashSet};

use prost::Message;
use prost_types::FileDescriptorSet;

/// How a call flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodKind {
    /// One message each way.
    Unary,
    /// Many messages in at least one direction, or not known.
    Streaming,
}

/// Paths (`/package.Service/Method`) to their kinds. What is not in it counts as streaming: the kind that no
/// default deadline cuts.
#[derive(Clone, Debug, Default)]
pub struct MethodTable {
    kinds: HashMap<String, MethodKind>,
    client_streaming: HashSet<String>,
}

impl MethodTable {
    /// Adds every method of an encoded `FileDescriptorSet`.
    pub fn add_descriptors(&mut self, encoded: &[u8]) -> Result<(), prost::DecodeError> {
        for file in FileDescriptorSet::decode(encoded)?.file {
            let package = file.package();
            let dot = if package.is_empty() { "" } else { "." };
            for service in &file.service {
                for method in &service.method {
                    let kind = if method.client_streaming() || method.server_streaming() {
                        MethodKind::Streaming
                    } else {
                        MethodKind::Unary
                    };
                    let path = format!("/{package}{dot}{}/{}", service.name(), method.name());
                    if method.client_streaming() {
                        self.client_streaming.insert(path.clone());
                    }
                    self.kinds.insert(path, kind);
                }
            }
        }
        Ok(())
    }

    /// The kind of the method at `path`.
    pub fn kind(&self, path: &str) -> MethodKind {
        self.kinds.get(path).copied().unwrap_or(MethodKind::Streaming)
    }

    /// Whether a client may send many messages to `path`. What is not known counts as such: nothing is expected of it.
    pub fn is_client_streaming(&self, path: &str) -> bool {
        self.client_streaming.contains(path) || !self.kinds.contains_key(path)
    }

    /// Every known path with its kind, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, MethodKind)> {
        self.kinds.iter().map(|(path, kind)| (path.as_str(), *kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_come_from_the_descriptors() {
        let mut table = MethodTable::default();
        table.add_descriptors(tonic_health::pb::FILE_DESCRIPTOR_SET).unwrap();
        assert_eq!(table.kind("/grpc.health.v1.Health/Check"), MethodKind::Unary);
        assert_eq!(table.kind("/grpc.health.v1.Health/Watch"), MethodKind::Streaming);
        assert_eq!(table.kind("/unknown/Method"), MethodKind::Streaming);
        assert!(!table.is_client_streaming("/grpc.health.v1.Health/Watch"));
        assert!(table.is_client_streaming("/unknown/Method"));
        assert!(table.add_descriptors(&[0xff; 3]).is_err());
    }
}
