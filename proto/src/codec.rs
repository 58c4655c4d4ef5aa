//! The codec of every call: prost, with buffers that fit messages of up to a megabyte.
//!
//! tonic's default grows an 8 KiB buffer step by step and hands it to HTTP/2 at 32 KiB; for a 1 MiB batch that is a row of
//! copies. Here a buffer is handed over once it is as large as a frame.

use std::marker::PhantomData;
use tonic::codec::{BufferSettings, Codec as TonicCodec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// Initial capacity of an encode buffer, in bytes. Small, because every stream owns one.
const BUFFER_SIZE: usize = 8 * 1024;
/// Encoded bytes that are collected before they go to HTTP/2: the size of a frame.
const YIELD_THRESHOLD: usize = 256 * 1024;

/// Encodes `T`, decodes `U`.
#[derive(Debug, Clone)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Codec(PhantomData)
    }
}

fn settings() -> BufferSettings {
    BufferSettings::new(BUFFER_SIZE, YIELD_THRESHOLD)
}

impl<T, U> TonicCodec for Codec<T, U>
where
    T: prost::Message + Send + 'static,
    U: prost::Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(settings())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(settings())
    }
}
