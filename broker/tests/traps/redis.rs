//! redis-rs.

use std::time::{Duration, Instant};

use millhand_servers::Redis;

use crate::SOON;

#[tokio::test(flavor = "multi_thread")]
async fn redis_answers_are_waited_for_half_a_second_and_may_have_been_carried_out() {
    let redis = Redis::start();
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let add = || redis::cmd("INCR").arg("trap").to_owned();
    assert_eq!(add().query_async::<i64>(&mut connection).await.unwrap(), 1);
    redis.freeze();
    let asked = Instant::now();
    let error = add().query_async::<i64>(&mut connection).await.unwrap_err();
    assert!(
        error.is_timeout() && asked.elapsed() < Duration::from_secs(2),
        "{error}"
    );
    // The manager of redis-rs would stay on this connection, and so for ever on one that is half open.
    assert!(!error.is_unrecoverable_error());
    redis.thaw();
    // What failed was carried out.
    let thawed = Instant::now();
    while redis.command(&["GET", "trap"]).text() != "2" {
        assert!(thawed.elapsed() < SOON, "it was not carried out");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_became_a_replica_is_not_left() {
    let redis = Redis::start();
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    let refused = redis::cmd("INCR").arg("trap").query_async::<i64>(&mut connection).await;
    let error = refused.unwrap_err();
    assert_eq!(error.code(), Some("READONLY"), "{error}");
    assert!(
        !error.is_unrecoverable_error(),
        "its manager would make a new connection"
    );
}
