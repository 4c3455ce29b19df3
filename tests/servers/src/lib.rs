//! Servers of a test's own: RabbitMQ and Redis on free ports of the loopback, with data of their own.
//!
//! [`shared`] are started once per test binary; a test that kills, freezes or configures starts its
//! own. Everything panics with what is wrong: these are for tests only. Nothing is left behind when
//! the process ends, in whatever way; see `keeper.rs`.
//!
//! Other servers than the installed ones: `MILLHAND_TEST_RABBITMQ` is the folder of RabbitMQ's programs,
//! `MILLHAND_TEST_REDIS` is the program. `MILLHAND_TEST_VERSIONS="RabbitMQ 4.0.5, Valkey 8.1.1"` refuses
//! every server that says it is another. `scripts/other-servers` sets them.
//!
//! ```no_run
//! let redis = millhand_servers::Redis::start();
//! redis.command(&["SET", "a", "1"]);
//! redis.kill();
//! redis.restart();
//! assert_eq!(redis.command(&["GET", "a"]).text(), "1");
//! ```

mod amqp;
mod certificates;
mod keeper;
mod process;
mod proxy;
mod rabbit;
mod redis;
mod resp;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub use self::certificates::{Authority, Ends};
pub use self::proxy::{Deed, Frame, Manner, Proxy, STALL};
pub use self::rabbit::Rabbit;
pub use self::redis::Redis;
pub use self::resp::Reply;

/// One server of each kind.
#[derive(Debug)]
pub struct Servers {
    /// What carries.
    pub rabbit: Rabbit,
    /// What remembers.
    pub redis: Redis,
}

/// The servers that all tests of this process share, started by the first who asks. A namespace per
/// test keeps them apart; who would disturb the others starts servers of its own.
pub fn shared() -> &'static Servers {
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    SERVERS.get_or_init(|| Servers {
        rabbit: Rabbit::start(),
        redis: Redis::start(),
    })
}

/// Refuses a server that is not one of those that the environment asks for, so that no run counts for a
/// version that did not answer.
fn must_be(version: &str) {
    if let Ok(wanted) = std::env::var("MILLHAND_TEST_VERSIONS") {
        assert!(
            wanted.split(", ").any(|one| one == version),
            "{version} answers; MILLHAND_TEST_VERSIONS asks for {wanted}"
        );
    }
}

/// Looks again every few milliseconds until there is something, or the time is up.
fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        let found = look();
        if found.is_some() || Instant::now() >= end {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
