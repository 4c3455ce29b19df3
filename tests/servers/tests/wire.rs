//! A wire is harmed as a test says, at the frame that it names.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use millhand_servers::{Deed, Frame, Manner, Proxy, Redis};

struct Asks(BufReader<TcpStream>);

impl Asks {
    fn through(proxy: &Proxy) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        Self(BufReader::new(stream))
    }

    /// One command in one line, and its answer.
    fn ask(&mut self, words: &[&str]) -> io::Result<String> {
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            text += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.0.get_mut().write_all(text.as_bytes())?;
        let mut line = String::new();
        match self.0.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

#[test]
fn the_frame_that_was_named_is_the_one_that_is_harmed() {
    let redis = Redis::start();
    let proxy = Proxy::resp(redis.port());
    let patience = Duration::from_secs(5);

    proxy.at(Frame::Command, 3, Deed::LoseAnswer);
    let mut asks = Asks::through(&proxy);
    assert_eq!(asks.ask(&["INCR", "n"]).unwrap(), ":1");
    assert_eq!(asks.ask(&["INCR", "n"]).unwrap(), ":2");
    let lost = asks.ask(&["INCR", "n"]).unwrap_err();
    assert_eq!(lost.kind(), io::ErrorKind::ConnectionReset, "{lost}");
    assert!(proxy.harmed(1, patience));
    assert_eq!(
        redis.command(&["GET", "n"]).text(),
        "3",
        "done, and who asked does not know"
    );

    proxy.at(Frame::Reply, 2, Deed::Cut);
    let mut asks = Asks::through(&proxy);
    assert_eq!(asks.ask(&["INCR", "n"]).unwrap(), ":4");
    assert_eq!(asks.ask(&["INCR", "n"]).unwrap(), ":5", "it passes before the end");
    assert!(asks.ask(&["INCR", "n"]).is_err());
    assert_eq!(redis.command(&["GET", "n"]).text(), "5");

    proxy.at(Frame::Reply, 1, Deed::Garble);
    assert_ne!(Asks::through(&proxy).ask(&["PING"]).unwrap(), "+PONG");

    proxy.at(Frame::Command, 1, Deed::Silence);
    let silent = Asks::through(&proxy).ask(&["INCR", "n"]).unwrap_err();
    assert!(matches!(
        silent.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    ));
    assert_eq!(redis.command(&["GET", "n"]).text(), "6");
    assert!(proxy.harmed(4, patience));
}

#[test]
fn a_wire_is_slow_deaf_or_cut_for_all_and_well_again() {
    let redis = Redis::start();
    let proxy = Proxy::resp(redis.port());
    let mut asks = Asks::through(&proxy);
    let delay = Duration::from_millis(100);
    proxy.be(Manner {
        delay,
        ..Manner::default()
    });
    let began = Instant::now();
    assert_eq!(asks.ask(&["PING"]).unwrap(), "+PONG");
    assert!(began.elapsed() >= 2 * delay);
    proxy.be(Manner {
        deaf: true,
        ..Manner::default()
    });
    assert!(asks.ask(&["SET", "a", "1"]).is_err());
    assert_eq!(redis.command(&["EXISTS", "a"]).int(), 0);
    proxy.cut();
    assert!(asks.ask(&["PING"]).is_err());
    let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).map(|_| Asks::through(&proxy).ask(&["PING"]));
    assert!(refused.is_err() || refused.unwrap().is_err());
    proxy.mend();
    assert_eq!(Asks::through(&proxy).ask(&["PING"]).unwrap(), "+PONG");
}
