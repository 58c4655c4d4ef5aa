//! Kafka's default partitioner for records with a key.

use crate::PartitionId;

/// Kafka's 32-bit murmur2 (`org.apache.kafka.common.utils.Utils#murmur2`), seed 0x9747b28c.
pub fn murmur2(data: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    let mut h: u32 = 0x9747_b28c ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    (h ^ (h >> 15)) as i32
}

/// The partition of a key: `(murmur2(key) & 0x7fffffff) % partitions`. Panics when `partitions` is 0: a topic has at
/// least one.
pub fn partition_for_key(key: &[u8], partitions: u32) -> PartitionId {
    PartitionId(((murmur2(key) as u32 & 0x7fff_ffff) % partitions) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own test (`UtilsTest#testMurmur2`).
    #[test]
    fn murmur2_gives_kafkas_published_values() {
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()), hash, "{text}");
        }
    }

    #[test]
    fn a_key_s_partition_is_its_hash_without_the_sign_modulo_the_count() {
        // -790_332_482 & 0x7fff_ffff = 1_357_151_166
        for (partitions, partition) in [(1, 0), (3, 0), (10, 6), (1000, 166)] {
            assert_eq!(partition_for_key(b"foobar", partitions), PartitionId(partition), "{partitions}");
        }
        for i in 0..1000u32 {
            let partition = partition_for_key(&i.to_be_bytes(), 7).get();
            assert!((0..7).contains(&partition), "{partition}");
        }
    }
}
