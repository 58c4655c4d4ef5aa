//! Zigzag varints as protobuf and Kafka write them: at most 5 bytes for 32 bits, 10 for 64.
//!
//! Reading is stricter than Kafka's Java client in one point: bits that do not fit the type are refused, not dropped.

/// The most bytes of a 32-bit value.
pub const MAX_LEN_32: usize = 5;
/// The most bytes of a 64-bit value.
pub const MAX_LEN_64: usize = 10;

/// Appends `value`.
#[inline]
pub fn put(out: &mut Vec<u8>, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Bytes that `value` takes.
#[inline]
pub fn len(value: i64) -> usize {
    (64 - (zigzag(value) | 1).leading_zeros() as usize).div_ceil(7)
}

/// Takes a 64-bit value off the front of `bytes`; none if it is cut off or too long.
#[inline]
pub fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    take::<MAX_LEN_64, 1>(bytes).map(unzigzag)
}

/// Takes a 32-bit value off the front of `bytes`; none if it is cut off or too long.
#[inline]
pub fn take_i32(bytes: &mut &[u8]) -> Option<i32> {
    // At most 32 bits came, so the zigzag of them fits.
    take::<MAX_LEN_32, 0x0f>(bytes).map(|value| unzigzag(value) as i32)
}

/// One and two bytes are nearly all that records have: they are read inline.
#[inline]
fn take<const MAX_LEN: usize, const LAST_MAX: u8>(bytes: &mut &[u8]) -> Option<u64> {
    match *bytes {
        [first, rest @ ..] if *first < 0x80 => {
            *bytes = rest;
            Some(u64::from(*first))
        }
        [first, second, rest @ ..] if *second < 0x80 => {
            *bytes = rest;
            Some(u64::from(first & 0x7f) | u64::from(*second) << 7)
        }
        _ => take_long::<MAX_LEN, LAST_MAX>(bytes),
    }
}

#[cold]
fn take_long<const MAX_LEN: usize, const LAST_MAX: u8>(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().take(MAX_LEN).enumerate() {
        if i == MAX_LEN - 1 && *byte > LAST_MAX {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if *byte < 0x80 {
            *bytes = &bytes[i + 1..];
            return Some(value);
        }
    }
    None
}

#[inline]
const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[inline]
const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The vectors of Kafka's own test (`ByteUtilsTest#testVarintSerde`, `#testVarlongSerde`).
    const VECTORS: [(i64, &[u8]); 15] = [
        (0, &[0x00]),
        (-1, &[0x01]),
        (1, &[0x02]),
        (63, &[0x7e]),
        (-64, &[0x7f]),
        (64, &[0x80, 0x01]),
        (-65, &[0x81, 0x01]),
        (8191, &[0xfe, 0x7f]),
        (-8192, &[0xff, 0x7f]),
        (8192, &[0x80, 0x80, 0x01]),
        (-8193, &[0x81, 0x80, 0x01]),
        (i32::MAX as i64, &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
        (i32::MIN as i64, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        (i64::MAX, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        (i64::MIN, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
    ];

    #[test]
    fn kafkas_vectors_encode_and_decode() {
        for (value, expected) in VECTORS {
            let mut out = Vec::new();
            put(&mut out, value);
            assert_eq!((out.as_slice(), len(value)), (expected, expected.len()), "{value}");
            assert_eq!(take_i64(&mut &out[..]), Some(value));
            let as_i32 = take_i32(&mut &out[..]);
            assert_eq!(as_i32, i32::try_from(value).ok(), "{value}");
        }
    }

    #[test]
    fn what_is_cut_off_or_too_long_is_refused_and_not_consumed() {
        let bad_32: [&[u8]; 5] = [
            &[],
            &[0x80],
            &[0xff, 0xff],
            &[0xff, 0xff, 0xff, 0xff, 0x10],
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
        ];
        for bytes in bad_32 {
            let mut rest = bytes;
            assert_eq!(take_i32(&mut rest), None, "{bytes:x?}");
            assert_eq!(rest, bytes);
        }
        let mut too_long = [0xffu8; 10];
        too_long[9] = 0x02;
        for bytes in [&too_long[..], &[0x80; 11], &[0xff; 9]] {
            assert_eq!(take_i64(&mut &bytes[..]), None, "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn every_value_comes_back_and_what_follows_stays(value: i64, tail: Vec<u8>) {
            let mut out = Vec::new();
            put(&mut out, value);
            prop_assert_eq!(out.len(), len(value));
            out.extend_from_slice(&tail);
            let mut rest = &out[..];
            prop_assert_eq!(take_i64(&mut rest), Some(value));
            prop_assert_eq!(rest, &tail[..]);
        }

        #[test]
        fn any_bytes_give_a_value_or_none(bytes: Vec<u8>) {
            let (mut a, mut b) = (&bytes[..], &bytes[..]);
            let (wide, narrow) = (take_i64(&mut a), take_i32(&mut b));
            if let Some(narrow) = narrow {
                prop_assert_eq!(wide, Some(i64::from(narrow)));
                prop_assert_eq!(a, b);
            }
        }
    }
}
