//! Cuts bytes into lines as they come, without waiting for the end of the input.

/// Holds the beginning of a line until its end has come.
#[derive(Debug, Default)]
pub struct LineCutter {
    partial: Vec<u8>,
}

impl LineCutter {
    /// Calls `each` for every line that `chunk` completes. Only the final `\n` is cut; `\r` and every other byte stay.
    /// Gives the rest of the chunk back when `each` asks to stop.
    pub fn push<E>(&mut self, chunk: &[u8], mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut rest = chunk;
        while let Some(end) = memchr(rest) {
            let (line, behind) = (&rest[..end], &rest[end + 1..]);
            if self.partial.is_empty() {
                each(line)?;
            } else {
                self.partial.extend_from_slice(line);
                let result = each(&self.partial);
                self.partial.clear();
                result?;
            }
            rest = behind;
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    /// Bytes of the line whose end has not come.
    pub fn pending(&self) -> usize {
        self.partial.len()
    }

    /// The last line, if the input did not end with `\n`.
    pub fn finish(self) -> Option<Vec<u8>> {
        (!self.partial.is_empty()).then_some(self.partial)
    }
}

fn memchr(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|b| *b == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn cut(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut cutter = LineCutter::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            let Ok(()) = cutter.push::<Infallible>(chunk, |line| {
                lines.push(line.to_vec());
                Ok(())
            });
        }
        lines.extend(cutter.finish());
        lines
    }

    #[test]
    fn only_the_final_newline_is_cut() {
        assert_eq!(cut(&[b"a\r\n\n\xff\0b\nlast"]), [&b"a\r"[..], b"", b"\xff\0b", b"last"]);
        assert_eq!(cut(&[b"a\n"]), [b"a"]);
        assert!(cut(&[]).is_empty());
    }

    #[test]
    fn where_the_chunks_end_does_not_matter() {
        let input: &[u8] = b"one\ntwo\r\n\nthree";
        let whole = cut(&[input]);
        for at in 0..=input.len() {
            assert_eq!(cut(&[&input[..at], &input[at..]]), whole, "cut at {at}");
        }
    }
}
