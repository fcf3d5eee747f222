//! HTTP/1.1 messages, as far as both ends of a measurement send them: with `Content-Length`.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
};

/// Reads messages from one connection.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    buffer: Vec<u8>,
}

impl Reader {
    /// Reads the next message and returns its first line; none if the connection ends before it.
    pub(crate) async fn next(&mut self, stream: &mut TcpStream) -> io::Result<Option<String>> {
        let head_end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if read_more(stream, &mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(cut_off()) };
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_end]);
        let first = head.lines().next().unwrap_or_default().to_owned();
        let message_end = head_end + content_length(&head)?;
        while self.buffer.len() < message_end {
            if read_more(stream, &mut self.buffer).await? == 0 {
                return Err(cut_off());
            }
        }
        self.buffer.drain(..message_end);
        Ok(Some(first))
    }
}

async fn read_more(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> io::Result<usize> {
    buffer.reserve(16 * 1024);
    stream.read_buf(buffer).await
}

fn content_length(head: &str) -> io::Result<usize> {
    for line in head.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            return value.trim().parse().map_err(|_| unexpected("a wrong Content-Length"));
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(unexpected("a message in chunks"));
        }
    }
    Ok(0)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended within a message")
}

pub(crate) fn unexpected(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}
