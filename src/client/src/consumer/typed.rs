//! Values instead of bytes.

use super::{Consumer, ConsumerError, ConsumerRecord};
use std::sync::Arc;

/// What a deserializer says of bytes that it does not understand.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct DeserializeError(pub String);

/// Turns bytes into a value (`key.deserializer`, `value.deserializer`).
pub trait Deserializer<T>: Send + Sync + 'static {
    /// Reads a value.
    fn deserialize(&self, bytes: &[u8]) -> Result<T, DeserializeError>;
}

impl<T, F: Fn(&[u8]) -> Result<T, DeserializeError> + Send + Sync + 'static> Deserializer<T> for F {
    fn deserialize(&self, bytes: &[u8]) -> Result<T, DeserializeError> {
        self(bytes)
    }
}

impl Deserializer<String> for crate::producer::serializers::Utf8 {
    fn deserialize(&self, bytes: &[u8]) -> Result<String, DeserializeError> {
        let text = std::str::from_utf8(bytes).map_err(|error| DeserializeError(error.to_string()))?;
        Ok(text.to_owned())
    }
}

impl Deserializer<Vec<u8>> for crate::producer::serializers::Raw {
    fn deserialize(&self, bytes: &[u8]) -> Result<Vec<u8>, DeserializeError> {
        Ok(bytes.to_vec())
    }
}

impl Deserializer<i64> for crate::producer::serializers::BigEndian {
    fn deserialize(&self, bytes: &[u8]) -> Result<i64, DeserializeError> {
        let bytes = bytes.try_into();
        let bytes = bytes.map_err(|_| DeserializeError("an integer has 8 bytes".to_owned()))?;
        Ok(i64::from_be_bytes(bytes))
    }
}

/// A record with its key and value read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedRecord<K, V> {
    /// Its key.
    pub key: Option<K>,
    /// Its value; `None` is a tombstone.
    pub value: Option<V>,
    /// The record as it came.
    pub record: ConsumerRecord,
}

/// A consumer of keys and values of fixed types.
///
/// ```no_run
/// # async fn example(consumer: thalweg_client::Consumer) -> Result<(), Box<dyn std::error::Error>> {
/// use thalweg_client::{TypedConsumer, serializers::{BigEndian, Utf8}};
/// let mut typed: TypedConsumer<String, i64> = TypedConsumer::new(consumer, Utf8, BigEndian);
/// let next = typed.next().await?;
/// println!("{:?}: {:?}", next.key, next.value);
/// # Ok(())
/// # }
/// ```
pub struct TypedConsumer<K, V> {
    consumer: Consumer,
    key: Arc<dyn Deserializer<K>>,
    value: Arc<dyn Deserializer<V>>,
}

impl<K: 'static, V: 'static> TypedConsumer<K, V> {
    /// Reads through `consumer` with these deserializers.
    pub fn new(
        consumer: Consumer,
        key: impl Deserializer<K>,
        value: impl Deserializer<V>,
    ) -> TypedConsumer<K, V> {
        TypedConsumer { consumer, key: Arc::new(key), value: Arc::new(value) }
    }

    /// The next record, as [`Consumer::next`] gives it. After [`ConsumerError::Deserialize`] the next call goes on behind the
    /// record.
    pub async fn next(&mut self) -> Result<TypedRecord<K, V>, ConsumerError> {
        let record = self.consumer.next().await?;
        let wrong = |part, source| ConsumerError::Deserialize {
            at: record.at(),
            offset: record.offset,
            part,
            source,
        };
        let key = record.key.as_deref().map(|bytes| self.key.deserialize(bytes)).transpose();
        let value = record.value.as_deref().map(|bytes| self.value.deserialize(bytes)).transpose();
        let key = key.map_err(|error| wrong("key", error))?;
        let value = value.map_err(|error| wrong("value", error))?;
        Ok(TypedRecord { key, value, record })
    }

    /// The consumer of bytes underneath: commits, seeks, pauses.
    pub fn consumer(&mut self) -> &mut Consumer {
        &mut self.consumer
    }

    /// Leaves, as [`Consumer::close`] does.
    pub async fn close(self) -> Result<(), ConsumerError> {
        self.consumer.close().await
    }
}
