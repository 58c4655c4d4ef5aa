//! Every codec both ways, and inputs that claim or become far more than they are.

use super::*;
use proptest::prelude::*;

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
/// The cap of the bombs' tests.
const LIMIT: usize = 16 * MIB;

fn packed(codec: Compression, input: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    codec.compress(input, &mut out).unwrap();
    out
}

fn inflate(codec: Compression, input: &[u8], limit: usize) -> Result<Vec<u8>, InflateError> {
    let mut out = Vec::new();
    let result = codec.inflate(input, &mut out, limit);
    // The bound that everything rests on: memory follows what was inflated, and stops at the cap.
    assert!(out.capacity() <= limit + 1 + 64 * 1024, "{codec}: {} bytes held", out.capacity());
    result.map(|()| out)
}

fn assert_too_large(codec: Compression, bomb: &[u8]) {
    assert_eq!(inflate(codec, bomb, LIMIT), Err(InflateError::TooLarge { limit: LIMIT }), "{codec}");
}

fn assert_malformed(codec: Compression, input: &[u8]) {
    let result = inflate(codec, input, LIMIT);
    assert!(
        matches!(result, Err(InflateError::Malformed { .. })),
        "{codec}: {:?}",
        result.map(|out| out.len())
    );
}

#[test]
fn names_and_bits_are_kafkas_and_parse_back() {
    let names: Vec<_> = Compression::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["none", "gzip", "snappy", "lz4", "zstd"]);
    for (bits, codec) in (0..).zip(Compression::ALL) {
        assert_eq!((codec.bits(), Compression::from_bits(bits)), (bits, Some(codec)));
        assert_eq!(codec.as_str().parse(), Ok(codec));
    }
    assert_eq!(Compression::from_bits(5), None);
    assert_eq!("GZIP".parse::<Compression>(), Err(UnknownCompression));
}

#[test]
fn compress_appends_and_the_cap_is_exact() {
    let input = b"a line of a log\n".repeat(20_000);
    for codec in Compression::ALL {
        let mut out = b"front".to_vec();
        codec.compress(&input, &mut out).unwrap();
        assert_eq!(&out[..5], b"front");
        assert_eq!(inflate(codec, &out[5..], input.len()).as_ref(), Ok(&input), "{codec}");
        let limit = input.len() - 1;
        assert_eq!(inflate(codec, &out[5..], limit), Err(InflateError::TooLarge { limit }), "{codec}");
        assert_eq!(inflate(codec, &packed(codec, b""), 0), Ok(Vec::new()), "{codec}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_come_back(bytes: Vec<u8>, repeat in 1usize..2000) {
        let input = bytes.repeat(repeat);
        for codec in Compression::ALL {
            prop_assert_eq!(&inflate(codec, &packed(codec, &input), input.len()).unwrap(), &input);
        }
    }

    #[test]
    fn any_bytes_inflate_or_are_refused(bytes: Vec<u8>, change: u8, at: prop::sample::Index) {
        for codec in Compression::ALL {
            let _ = inflate(codec, &bytes, 1000);
            let mut nearly = packed(codec, b"something that compresses compresses compresses");
            let at = at.index(nearly.len());
            nearly[at] = change;
            let _ = inflate(codec, &nearly, 1000);
            nearly.truncate(at);
            let _ = inflate(codec, &nearly, 1000);
        }
    }
}

/// 1 MiB that becomes 1 GiB (gzip cannot do better): members one behind the other, as the format allows.
#[test]
fn a_gzip_bomb_is_refused() {
    let member = packed(Compression::Gzip, &vec![0; MIB]);
    assert!(member.len() < 1200);
    assert_too_large(Compression::Gzip, &member.repeat(GIB / MIB));
    assert_eq!(inflate(Compression::Gzip, &member.repeat(2), LIMIT), Ok(vec![0; 2 * MIB]));
    assert_malformed(Compression::Gzip, &[&member[..], b"garbage"].concat());
    assert_malformed(Compression::Gzip, &member[..member.len() - 1]);
    assert_malformed(Compression::Gzip, b"");
}

/// A frame of run-length blocks, 4 bytes for each 128 KiB: 32 KiB become 1 GiB, and 1 KiB becomes 32 MiB.
fn zstd_bomb(window_log: u8, blocks: usize) -> Vec<u8> {
    const BLOCK: u32 = 128 * 1024;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, (window_log - 10) << 3];
    for i in 0..blocks {
        let last = u32::from(i + 1 == blocks);
        frame.extend_from_slice(&(last | 1 << 1 | BLOCK << 3).to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

#[test]
fn a_zstd_bomb_is_refused() {
    assert_too_large(Compression::Zstd, &zstd_bomb(17, GIB / (128 * 1024)));
    let kib = zstd_bomb(17, 254);
    assert!(kib.len() <= 1024);
    assert_too_large(Compression::Zstd, &kib);
    // A claimed content size (8 bytes of it) reserves nothing.
    let mut claim = vec![0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0x38];
    claim.extend_from_slice(&(GIB as u64).to_le_bytes());
    claim.extend_from_slice(&[0x01 | 1 << 3, 0x00, 0x00, b'x']);
    assert_malformed(Compression::Zstd, &claim);
}

#[test]
fn a_zstd_window_of_more_than_8_mib_is_refused() {
    assert_eq!(inflate(Compression::Zstd, &zstd_bomb(23, 1), LIMIT), Ok(vec![0; 128 * 1024]));
    for log in [24, 27, 31, 41] {
        assert_malformed(Compression::Zstd, &zstd_bomb(log, 1));
    }
    // The decoder is kept between two uses: a refusal leaves nothing behind in it.
    assert_eq!(inflate(Compression::Zstd, &packed(Compression::Zstd, b"x"), 1), Ok(b"x".to_vec()));
    let whole = packed(Compression::Zstd, &b"abcdefgh".repeat(1000));
    assert_malformed(Compression::Zstd, &whole[..whole.len() - 1]);
    assert_eq!(inflate(Compression::Zstd, &packed(Compression::Zstd, b"y"), 1), Ok(b"y".to_vec()));
}

/// One block of 4 MiB of zeros (16 KiB packed), 256 times: 4 MiB become 1 GiB, the most that the format can do.
#[test]
fn an_lz4_bomb_is_refused() {
    use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};
    let mut encoder =
        FrameEncoder::with_frame_info(FrameInfo::new().block_size(BlockSize::Max4MB), Vec::new());
    io::Write::write_all(&mut encoder, &vec![0; 4 * MIB]).unwrap();
    let frame = encoder.finish().unwrap();
    let (header, blocks) = frame.split_at(7);
    let block = blocks.strip_suffix(&[0; 4]).unwrap();
    let bomb = [header, &block.repeat(GIB / (4 * MIB)), &[0; 4]].concat();
    assert!(bomb.len() < 5 * MIB);
    assert_too_large(Compression::Lz4, &bomb);
    assert_eq!(inflate(Compression::Lz4, &frame, 4 * MIB).map(|out| out.len()), Ok(4 * MIB));
    assert_malformed(Compression::Lz4, &[&frame[..], b"x"].concat());
}

#[test]
fn a_snappy_bomb_is_refused() {
    // Raw: the length in front is only a claim.
    let claim = |claimed: usize| {
        let mut bytes = Vec::new();
        let mut rest = claimed;
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes.extend_from_slice(&[0xfe, 0x01, 0x00].repeat(300));
        bytes
    };
    assert_too_large(Compression::Snappy, &claim(GIB));
    let mut out = Vec::new();
    let small_claim = claim(LIMIT - 1);
    assert!(Compression::Snappy.inflate(&small_claim, &mut out, LIMIT).is_err());
    assert!(out.capacity() < MIB, "a claim alone reserved {} bytes", out.capacity());
    // Xerial: the same block again and again; and a block that claims.
    let framed = packed(Compression::Snappy, &[0; 32 * 1024]);
    let (header, block) = framed.split_at(16);
    assert_too_large(Compression::Snappy, &[header, &block.repeat(GIB / (32 * 1024))].concat());
    let claiming = claim(GIB);
    let length = (claiming.len() as u32).to_be_bytes();
    assert_too_large(Compression::Snappy, &[header, &length, &claiming].concat());
}

#[test]
fn snappy_is_read_raw_too_and_broken_frames_are_refused() {
    let input = b"snappy snappy snappy".repeat(5000);
    let raw = snap::raw::Encoder::new().compress_vec(&input).unwrap();
    assert_eq!(inflate(Compression::Snappy, &raw, input.len()).as_ref(), Ok(&input));
    let framed = packed(Compression::Snappy, &input);
    assert_eq!(&framed[..16], b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01");
    for cut in [8, 15, 17, 19, 21, framed.len() - 1] {
        assert_malformed(Compression::Snappy, &framed[..cut]);
    }
    let mut long = framed.clone();
    long[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_malformed(Compression::Snappy, &long);
}
