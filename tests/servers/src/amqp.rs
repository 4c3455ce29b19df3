//! As much of AMQP 0-9-1 as it takes to log in: the one proof that a RabbitMQ is ready.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Class and method.
const START: [u8; 4] = [0, 10, 0, 10];
const START_OK: [u8; 4] = [0, 10, 0, 11];
const TUNE: [u8; 4] = [0, 10, 0, 30];
const TUNE_OK: [u8; 4] = [0, 10, 0, 31];
const OPEN: [u8; 4] = [0, 10, 0, 40];
const OPEN_OK: [u8; 4] = [0, 10, 0, 41];

/// Logs in as guest on the vhost `/`; the server's version. `name` must stand in its greeting: its own
/// name, by which it is told from another server on the same port.
pub(crate) fn log_in(port: u16, name: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;

    stream.write_all(b"AMQP\0\0\x09\x01")?;
    let greeting = expect(&mut stream, START)?;
    if !greeting.windows(name.len()).any(|part| part == name.as_bytes()) {
        return Err(io::Error::other("another server"));
    }
    // No properties, the mechanism, user and password, the language.
    send(
        &mut stream,
        START_OK,
        b"\0\0\0\0\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US",
    )?;
    // The server's limits are taken as they are.
    let limits = expect(&mut stream, TUNE)?;
    send(&mut stream, TUNE_OK, &limits)?;
    send(&mut stream, OPEN, b"\x01/\0\0")?;
    expect(&mut stream, OPEN_OK)?;
    version(&greeting).ok_or_else(|| io::Error::other("no version"))
}

/// The field `version` of the greeting's table: a long string, with four bytes of length.
fn version(greeting: &[u8]) -> Option<String> {
    const FIELD: &[u8] = b"\x07versionS";
    let at = greeting.windows(FIELD.len()).position(|part| part == FIELD)?;
    let (length, text) = greeting.get(at + FIELD.len()..)?.split_first_chunk()?;
    let text = text.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// A method on channel 0.
fn send(stream: &mut TcpStream, method: [u8; 4], arguments: &[u8]) -> io::Result<()> {
    let size = u32::try_from(4 + arguments.len()).map_err(io::Error::other)?;
    let frame = [&[1, 0, 0][..], &size.to_be_bytes(), &method, arguments, &[0xce]].concat();
    stream.write_all(&frame)
}

/// The arguments of the method that must come next.
fn expect(stream: &mut TcpStream, method: [u8; 4]) -> io::Result<Vec<u8>> {
    let mut head = [0; 7];
    stream.read_exact(&mut head)?;
    let [kind, _, _, size @ ..] = head;
    let mut body = Vec::new();
    stream
        .take(u64::from(u32::from_be_bytes(size)) + 1)
        .read_to_end(&mut body)?;
    match body.strip_prefix(&method).and_then(|rest| rest.strip_suffix(&[0xce])) {
        Some(arguments) if kind == 1 => Ok(arguments.to_vec()),
        _ => Err(io::Error::other("another method")),
    }
}
