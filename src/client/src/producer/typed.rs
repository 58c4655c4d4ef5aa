//! Values instead of bytes.

use super::Producer;
use super::delivery::Delivery;
use super::error::SendError;
use super::record::ProducerRecord;
use std::cell::RefCell;
use std::sync::Arc;

/// Turns a value into bytes (`key.serializer`, `value.serializer`).
pub trait Serializer<T: ?Sized>: Send + Sync + 'static {
    /// Appends the value's bytes to `out`.
    fn serialize(&self, value: &T, out: &mut Vec<u8>);
}

impl<T: ?Sized, F: Fn(&T, &mut Vec<u8>) + Send + Sync + 'static> Serializer<T> for F {
    fn serialize(&self, value: &T, out: &mut Vec<u8>) {
        self(value, out);
    }
}

/// Serializers for common values.
pub mod serializers {
    use super::Serializer;

    /// Text as UTF-8.
    #[derive(Debug, Clone, Copy, Default)]
    pub struct Utf8;
    /// Bytes as they are.
    #[derive(Debug, Clone, Copy, Default)]
    pub struct Raw;
    /// An integer as 8 bytes, big endian (Kafka's `LongSerializer`).
    #[derive(Debug, Clone, Copy, Default)]
    pub struct BigEndian;

    impl<T: AsRef<str> + ?Sized> Serializer<T> for Utf8 {
        fn serialize(&self, value: &T, out: &mut Vec<u8>) {
            out.extend_from_slice(value.as_ref().as_bytes());
        }
    }

    impl<T: AsRef<[u8]> + ?Sized> Serializer<T> for Raw {
        fn serialize(&self, value: &T, out: &mut Vec<u8>) {
            out.extend_from_slice(value.as_ref());
        }
    }

    impl Serializer<i64> for BigEndian {
        fn serialize(&self, value: &i64, out: &mut Vec<u8>) {
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

/// A producer of keys and values of fixed types.
///
/// ```no_run
/// # async fn example(producer: thalweg_client::Producer) -> Result<(), Box<dyn std::error::Error>> {
/// use thalweg_client::{TypedProducer, serializers::{BigEndian, Utf8}};
/// let typed: TypedProducer<str, i64> = TypedProducer::new(producer, Utf8, BigEndian);
/// typed.send("temperatures", Some("kitchen"), Some(&21)).await?.await?;
/// # Ok(())
/// # }
/// ```
pub struct TypedProducer<K: ?Sized, V: ?Sized> {
    producer: Producer,
    key: Arc<dyn Serializer<K>>,
    value: Arc<dyn Serializer<V>>,
}

thread_local! {
    /// Serialized bytes between two sends; their capacity is kept.
    static SCRATCH: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

impl<K: ?Sized, V: ?Sized> Clone for TypedProducer<K, V> {
    fn clone(&self) -> Self {
        TypedProducer {
            producer: self.producer.clone(),
            key: Arc::clone(&self.key),
            value: Arc::clone(&self.value),
        }
    }
}

impl<K: ?Sized + 'static, V: ?Sized + 'static> TypedProducer<K, V> {
    /// Sends through `producer` with these serializers.
    pub fn new(
        producer: Producer,
        key: impl Serializer<K>,
        value: impl Serializer<V>,
    ) -> TypedProducer<K, V> {
        TypedProducer { producer, key: Arc::new(key), value: Arc::new(value) }
    }

    /// Serializes and sends; waits as [`Producer::send`] does.
    pub async fn send(&self, topic: &str, key: Option<&K>, value: Option<&V>) -> Result<Delivery, SendError> {
        // Taken out, not borrowed: a serializer may itself send, and the wait below may move to another thread.
        let (mut keys, mut values) = SCRATCH.take();
        keys.clear();
        values.clear();
        if let Some(key) = key {
            self.key.serialize(key, &mut keys);
        }
        if let Some(value) = value {
            self.value.serialize(value, &mut values);
        }
        let record = ProducerRecord {
            key: key.map(|_| keys.as_slice()),
            value: value.map(|_| values.as_slice()),
            ..ProducerRecord::new(topic)
        };
        let sent = self.producer.send(record).await;
        SCRATCH.set((keys, values));
        sent
    }

    /// The producer of bytes underneath.
    pub fn producer(&self) -> &Producer {
        &self.producer
    }
}
