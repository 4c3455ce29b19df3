//! As much of Redis' protocol as a test needs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);

/// What Redis answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Nothing: there is no such thing.
    Nil,
    /// A number.
    Int(i64),
    /// A status or a value; what is not UTF-8 is replaced.
    Text(String),
    /// A refusal.
    Error(String),
    /// A list.
    Many(Vec<Reply>),
}

impl Reply {
    /// The number.
    ///
    /// # Panics
    ///
    /// When it is none.
    #[must_use]
    pub fn int(&self) -> i64 {
        match self {
            Self::Int(n) => *n,
            other => panic!("no number: {other:?}"),
        }
    }

    /// The text.
    ///
    /// # Panics
    ///
    /// When it is none.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            other => panic!("no text: {other:?}"),
        }
    }

    /// The list's items.
    ///
    /// # Panics
    ///
    /// When it is none.
    #[must_use]
    pub fn items(&self) -> &[Reply] {
        match self {
            Self::Many(items) => items,
            other => panic!("no list: {other:?}"),
        }
    }
}

/// One command on a connection of its own.
pub(crate) fn ask(port: u16, words: &[&str]) -> io::Result<Reply> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request += &format!("${}\r\n{word}\r\n", word.len());
    }
    stream.write_all(request.as_bytes())?;
    read(&mut BufReader::new(stream))
}

fn read(stream: &mut impl BufRead) -> io::Result<Reply> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let line = line.strip_suffix("\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let (kind, rest) = line.split_at_checked(1).ok_or(io::ErrorKind::InvalidData)?;
    let number = || {
        rest.parse::<i64>()
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
    };
    Ok(match kind {
        "+" => Reply::Text(rest.to_owned()),
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Int(number()?),
        "$" => match u64::try_from(number()?) {
            Ok(length) => {
                let mut bytes = Vec::new();
                stream.by_ref().take(length + 2).read_to_end(&mut bytes)?;
                let text = bytes.strip_suffix(b"\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
                Reply::Text(String::from_utf8_lossy(text).into_owned())
            }
            Err(_) => Reply::Nil,
        },
        "*" => match number()? {
            -1 => Reply::Nil,
            count => Reply::Many((0..count).map(|_| read(stream)).collect::<io::Result<_>>()?),
        },
        _ => return Err(io::ErrorKind::InvalidData.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_whole_or_not_at_all() {
        let nested = b"*4\r\n$2\r\nab\r\n:-7\r\n*1\r\n+OK\r\n$-1\r\n";
        let expected = Reply::Many(vec![
            Reply::Text("ab".into()),
            Reply::Int(-7),
            Reply::Many(vec![Reply::Text("OK".into())]),
            Reply::Nil,
        ]);
        assert_eq!(read(&mut &nested[..]).unwrap(), expected);
        assert_eq!(read(&mut &b"-ERR no\r\n"[..]).unwrap(), Reply::Error("ERR no".into()));
        assert_eq!(read(&mut &b"*-1\r\n"[..]).unwrap(), Reply::Nil);
        for length in 0..nested.len() {
            assert!(read(&mut &nested[..length]).is_err(), "{length}");
        }
    }
}
