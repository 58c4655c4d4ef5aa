//! Zigzag varints as protobuf and Kafka write them: at most 5 bytes for 32 bits, 10 for 64.

/// Appends `value`.
#[inline]
pub fn put(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Bytes that `value` takes.
#[inline]
pub fn len(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    (64 - (zigzag | 1).leading_zeros() as usize).div_ceil(7)
}

/// Takes a 64-bit value off the front of `bytes`; none if it is cut off or too long.
#[inline]
pub fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    let (first, rest) = bytes.split_first()?;
    if *first < 0x80 {
        *bytes = rest;
        return Some(unzigzag(u64::from(*first)));
    }
    take_long(bytes)
}

fn take_long(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().take(10).enumerate() {
        if i == 9 && *byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if *byte < 0x80 {
            *bytes = &bytes[i + 1..];
            return Some(unzigzag(value));
        }
    }
    None
}

/// Takes a 32-bit value off the front of `bytes`; none if it is cut off or out of range.
#[inline]
pub fn take_i32(bytes: &mut &[u8]) -> Option<i32> {
    i32::try_from(take_i64(bytes)?).ok()
}

#[inline]
const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
