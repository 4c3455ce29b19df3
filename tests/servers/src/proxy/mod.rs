//! A wire that a test can harm: whoever connects through it has a bad network, and nobody else does.

mod frames;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use self::frames::Frame;
use self::frames::{Speech, first};

/// What is done when a frame has been counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It passes, and its connection ends.
    Cut,
    /// It passes, and the next frame from the other side does not: the connection is reset. What was asked
    /// for was done, and who asked does not know.
    LoseAnswer,
    /// It passes, and nothing after it, in either direction; the connection stays.
    Silence,
    /// Its first byte is another one: nobody can read on.
    Garble,
}

/// How a wire is, for all that passes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// Each byte comes so much later.
    pub delay: Duration,
    /// Bytes in a second, each way of each connection.
    pub rate: Option<u32>,
    /// Of a thousand pieces so many wait [`STALL`].
    pub stalls: u32,
    /// Nothing reaches the server; connections stay.
    pub deaf: bool,
    /// Nothing comes back; connections stay.
    pub dumb: bool,
}

/// How long a stalled piece waits.
pub const STALL: Duration = Duration::from_millis(1500);

/// Passes connections on to a port of the loopback. It ends with the process.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    speech: Speech,
    /// Where new connections lead.
    server: AtomicU16,
    refuses: AtomicBool,
    /// Pairs: the client's side, the server's side.
    open: Mutex<Vec<[TcpStream; 2]>>,
    plan: Mutex<Plan>,
    /// A deed was done.
    done: Condvar,
}

#[derive(Debug, Default)]
struct Plan {
    manner: Manner,
    /// A frame, how many of them are still to come, and what then.
    rule: Option<(Frame, u32, Deed)>,
    deeds: u32,
    pieces: u32,
}

/// What has become of one connection.
#[derive(Debug, Default)]
struct Fate {
    /// The next frame to the client, or to the server, is lost.
    loses: Mutex<Option<bool>>,
    silent: AtomicBool,
}

impl Proxy {
    /// Listens on a free port, and passes on to `port`, whatever is said.
    ///
    /// # Panics
    ///
    /// When there is no free port.
    #[must_use]
    pub fn to(port: u16) -> Self {
        Self::speaking(Speech::Bytes, port)
    }

    /// Before a RabbitMQ: frames can be counted.
    ///
    /// # Panics
    ///
    /// When there is no free port.
    #[must_use]
    pub fn amqp(port: u16) -> Self {
        Self::speaking(Speech::Amqp, port)
    }

    /// Before a Redis: commands and answers can be counted.
    ///
    /// # Panics
    ///
    /// When there is no free port.
    #[must_use]
    pub fn resp(port: u16) -> Self {
        Self::speaking(Speech::Resp, port)
    }

    fn speaking(speech: Speech, port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let own = listener.local_addr().expect("its address").port();
        let shared = Arc::new(Shared {
            speech,
            server: port.into(),
            refuses: AtomicBool::new(false),
            open: Mutex::default(),
            plan: Mutex::default(),
            done: Condvar::new(),
        });
        let passing = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if !passing.refuses.load(Ordering::SeqCst) {
                    // A server that is away shows as a connection that is closed at once.
                    let _ = passing.pass(&client);
                }
            }
        });
        Self { port: own, shared }
    }

    /// Its port on the loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Leads new connections to another server; those that are open stay where they are.
    pub fn lead_to(&self, port: u16) {
        self.shared.server.store(port, Ordering::SeqCst);
    }

    /// Ends all connections, and lets nobody through.
    pub fn cut(&self) {
        self.shared.refuses.store(true, Ordering::SeqCst);
        self.end_all();
    }

    /// Ends all connections; new ones pass.
    pub fn end_all(&self) {
        for stream in lock(&self.shared.open).drain(..).flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// The client will hear nothing more on any connection, and can still speak: the other half is open.
    pub fn half_close(&self) {
        for [client, _] in lock(&self.shared.open).iter() {
            let _ = client.shutdown(Shutdown::Write);
        }
    }

    /// Lets everybody through again, unharmed. Connections that were harmed stay so.
    pub fn mend(&self) {
        self.shared.refuses.store(false, Ordering::SeqCst);
        let mut plan = lock(&self.shared.plan);
        (plan.manner, plan.rule) = (Manner::default(), None);
    }

    /// From now on, for connections that are open too.
    pub fn be(&self, manner: Manner) {
        lock(&self.shared.plan).manner = manner;
    }

    /// Does it once, when so many of these frames have come, on whatever connection the last one comes.
    pub fn at(&self, frame: Frame, count: u32, deed: Deed) {
        lock(&self.shared.plan).rule = Some((frame, count.max(1), deed));
    }

    /// Waits until so many deeds have been done since the start; whether they were.
    #[must_use]
    pub fn harmed(&self, deeds: u32, limit: Duration) -> bool {
        let plan = lock(&self.shared.plan);
        let waited = self
            .shared
            .done
            .wait_timeout_while(plan, limit, |plan| plan.deeds < deeds);
        let (plan, _) = waited.unwrap_or_else(PoisonError::into_inner);
        plan.deeds >= deeds
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes, and when they may come out at the other end.
type Piece = (Instant, Vec<u8>);

impl Shared {
    fn pass(self: &Arc<Self>, client: &TcpStream) -> io::Result<()> {
        let server = TcpStream::connect((Ipv4Addr::LOCALHOST, self.server.load(Ordering::SeqCst)))?;
        for stream in [client, &server] {
            stream.set_nodelay(true)?;
        }
        lock(&self.open).push([client.try_clone()?, server.try_clone()?]);
        let fate = Arc::<Fate>::default();
        for (to_server, from, to) in [(true, client, &server), (false, &server, client)] {
            let (shared, fate) = (Arc::clone(self), Arc::clone(&fate));
            let (from, to) = (from.try_clone()?, to.try_clone()?);
            let (ends, other) = ([from.try_clone()?, to.try_clone()?], Arc::clone(self));
            let (sender, receiver) = sync_channel::<Piece>(1024);
            thread::spawn(move || shared.hear(from, &ends, to_server, &fate, &sender));
            thread::spawn(move || other.tell(to, &receiver));
        }
        Ok(())
    }

    /// Reads frames until either side ends, and ends the other.
    fn hear(&self, mut from: TcpStream, ends: &[TcpStream; 2], to_server: bool, fate: &Fate, out: &SyncSender<Piece>) {
        let (mut buffer, mut bytes) = (vec![0; 64 << 10], Vec::new());
        'open: while let Ok(count @ 1..) = from.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..count]);
            let mut passed = Vec::new();
            let mut ends_here = false;
            while let Some((length, frame)) = first(self.speech, to_server, &bytes) {
                let mut one: Vec<u8> = bytes.drain(..length).collect();
                if *lock(&fate.loses) == Some(to_server) {
                    for stream in ends {
                        reset(stream);
                    }
                    break 'open;
                }
                if fate.silent.load(Ordering::SeqCst) {
                    continue;
                }
                match self.count(frame) {
                    None => {}
                    Some(Deed::Cut) => {
                        ends_here = true;
                        fate.silent.store(true, Ordering::SeqCst);
                    }
                    Some(Deed::LoseAnswer) => *lock(&fate.loses) = Some(!to_server),
                    Some(Deed::Silence) => fate.silent.store(true, Ordering::SeqCst),
                    Some(Deed::Garble) => one[0] ^= 0x5a,
                }
                passed.append(&mut one);
                if ends_here {
                    break;
                }
            }
            let (manner, stalled) = self.manner();
            let lost = if to_server { manner.deaf } else { manner.dumb };
            if !lost && !passed.is_empty() {
                let late = manner.delay + if stalled { STALL } else { Duration::ZERO };
                if out.send((Instant::now() + late, passed)).is_err() {
                    break;
                }
            }
            if ends_here {
                // What passed must have come out.
                thread::sleep(Duration::from_millis(20));
                break;
            }
        }
        // Who ends one half ends both: nobody here closes half a connection and reads on.
        for stream in ends {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Writes what comes, when it is time.
    fn tell(&self, mut to: TcpStream, pieces: &Receiver<Piece>) {
        for (due, bytes) in pieces {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            for some in bytes.chunks(1 << 10) {
                let rate = lock(&self.plan).manner.rate;
                if let Some(rate) = rate {
                    thread::sleep(Duration::from_secs(1) * u32::try_from(some.len()).unwrap_or(1) / rate.max(1));
                }
                if to.write_all(some).is_err() {
                    return;
                }
            }
        }
    }

    /// The deed that this frame brings.
    fn count(&self, frame: Frame) -> Option<Deed> {
        let mut plan = lock(&self.plan);
        let (wanted, left, deed) = plan.rule?;
        if wanted != frame {
            return None;
        }
        if left > 1 {
            plan.rule = Some((wanted, left - 1, deed));
            return None;
        }
        plan.rule = None;
        plan.deeds += 1;
        self.done.notify_all();
        Some(deed)
    }

    fn manner(&self) -> (Manner, bool) {
        let mut plan = lock(&self.plan);
        plan.pieces = plan.pieces.wrapping_add(1);
        // Spread evenly, and the same in each run.
        let stalled = plan.manner.stalls > 0 && plan.pieces.wrapping_mul(619) % 1000 < plan.manner.stalls;
        (plan.manner, stalled)
    }
}

/// Ends a connection as a machine does that knows nothing of it: with a reset.
fn reset(stream: &TcpStream) {
    let _ = rustix::net::connect_unspec(stream);
}
