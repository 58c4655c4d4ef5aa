//! The codec of every call: prost, with buffers that fit messages of up to a megabyte.
//!
//! tonic's default grows an 8 KiB buffer step by step and hands it to HTTP/2 at 32 KiB; for a 1 MiB batch that is a row of
//! copies. Here a buffer is handed over once it is as large as a frame.
//!
//! A message is decoded only after its repeated fields were counted, see [`scan`].

use crate::scan;
use bytes::Buf;
use std::marker::PhantomData;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec as TonicCodec, DecodeBuf, Decoder as TonicDecoder};
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
    type Decoder = Decoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(settings())
    }

    fn decoder(&mut self) -> Self::Decoder {
        Decoder(ProstDecoder::new(settings()))
    }
}

/// Decodes `U` if it does not repeat more than it may.
#[derive(Debug)]
pub struct Decoder<U>(ProstDecoder<U>);

impl<U> TonicDecoder for Decoder<U>
where
    U: prost::Message + Default + 'static,
{
    type Item = U;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // The transport gathers a message in one piece before it is decoded.
        debug_assert_eq!(bytes.chunk().len(), bytes.remaining());
        scan::check::<U>(bytes.chunk())?;
        self.0.decode(bytes)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}
