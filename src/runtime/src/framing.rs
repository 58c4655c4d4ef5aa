//! Where gRPC messages begin and end in a body, without decoding them.

/// Bytes before each message: whether it is compressed, and its length (gRPC over HTTP/2).
pub const PREFIX_BYTES: usize = 5;

/// Follows a body from message to message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    prefix: [u8; PREFIX_BYTES],
    prefix_len: usize,
    // Of the message whose prefix is complete: what has not come yet.
    missing: usize,
    half: usize,
}

impl Framing {
    /// At the start of a body.
    pub fn new() -> Framing {
        Framing::default()
    }

    /// Takes in the body's next bytes.
    pub fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.missing > 0 {
                let taken = self.missing.min(bytes.len());
                self.missing -= taken;
                self.half += taken;
                bytes = &bytes[taken..];
            } else {
                let taken = (PREFIX_BYTES - self.prefix_len).min(bytes.len());
                self.prefix[self.prefix_len..self.prefix_len + taken].copy_from_slice(&bytes[..taken]);
                self.prefix_len += taken;
                self.half += taken;
                bytes = &bytes[taken..];
                if self.prefix_len < PREFIX_BYTES {
                    return;
                }
                let [_, length @ ..] = self.prefix;
                self.missing = u32::from_be_bytes(length) as usize;
            }
            if self.missing == 0 {
                (self.prefix_len, self.half) = (0, 0);
            }
        }
    }

    /// Bytes of the message that has begun and is not whole, its prefix included; 0 between two messages.
    pub fn half_received(&self) -> usize {
        self.half
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        let messages = [&b""[..], b"x", &[7; 300]];
        let mut body = Vec::new();
        let mut whole = vec![0];
        for message in messages {
            body.push(0);
            body.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
            body.extend_from_slice(message);
            whole.push(body.len());
        }
        for step in 1..=body.len() {
            let (mut framing, mut at) = (Framing::new(), 0);
            for piece in body.chunks(step) {
                framing.advance(piece);
                at += piece.len();
                let begun = whole.iter().rfind(|end| **end <= at).unwrap();
                assert_eq!(framing.half_received(), at - begun, "{at} of {} by {step}", body.len());
            }
            assert_eq!(framing, Framing { prefix: framing.prefix, ..Framing::new() });
        }
    }
}
