//! What is declared, by whom, and again when it is gone.

use lapin::options::{ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use tokio::time::sleep;

use super::*;

#[tokio::test]
async fn a_deleted_queue_is_declared_again() {
    let place = Place::new();
    let queue = place.open(&server());
    publish(&queue, (0..30).map(work).collect()).await;
    let (_connection, channel) = beside().await;
    for class in [Class::High, Class::Low] {
        let name = place.names.work(&mail(), class);
        channel
            .queue_delete(name.into(), QueueDeleteOptions::default())
            .await
            .unwrap();
    }
    // All go again, of which those that were not deleted are there twice: that is harmless.
    publish(&queue, (100..130).map(work).collect()).await;
    let mut arrivals = queue.consume(subscription(100), false).await.unwrap();
    let mut seen = std::collections::HashSet::new();
    while (100..130).any(|n| !seen.contains(&Bytes::from(n.to_string()))) {
        let arrival = message(&mut arrivals).await;
        queue.acknowledge(vec![arrival.id]);
        seen.insert(arrival.body);
    }
}

#[tokio::test]
async fn a_deleted_ladder_is_declared_again() {
    let place = Place::new();
    let queue = place.open(&server());
    publish(&queue, vec![later(Duration::from_secs(3600), false, "much later")]).await;
    let (_connection, channel) = beside().await;
    for name in (0..3).map(|level| place.names.level(level)).chain([place.names.due()]) {
        let deleted = channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default());
        deleted.await.unwrap();
        let deleted = channel.queue_delete(name.into(), QueueDeleteOptions::default());
        deleted.await.unwrap();
    }
    let mut arrivals = queue.consume(subscription(10), false).await.unwrap();
    let waits = vec![
        later(Duration::from_secs(1), false, "1"),
        later(Duration::from_secs(3), false, "3"),
    ];
    publish(&queue, waits).await;
    for body in ["1", "3"] {
        assert_eq!(message(&mut arrivals).await.body, body);
    }
}

#[tokio::test]
async fn a_lost_consumer_is_made_again() {
    let place = Place::new();
    let queue = place.open(&server());
    let mut arrivals = queue.consume(subscription(5), false).await.unwrap();
    let (_connection, channel) = beside().await;
    let name = place.names.work(&mail(), Class::Normal);
    channel
        .queue_delete(name.as_str().into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    lost(&mut arrivals).await;
    // Nobody has to publish before its queue is there again, and it consumes.
    let by = Instant::now() + SOON;
    loop {
        let (connection, channel) = beside().await;
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let asked = channel.queue_declare(name.as_str().into(), passive, lapin::types::FieldTable::default());
        if asked.await.is_ok_and(|queue| queue.consumer_count() == 1) {
            break;
        }
        assert!(Instant::now() < by, "nobody consumes");
        drop(connection);
        sleep(QUIET / 4).await;
    }
    publish(&queue, vec![work(1)]).await;
    assert_eq!(message(&mut arrivals).await.body, "1");
}

/// Two that make a level at once would lose the delay of a message now and then; see `ladder`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_alone_makes_levels_and_is_not_waited_for_for_ever() {
    let (_connection, channel) = beside().await;
    for lets_go in [true, false] {
        let place = Place::new();
        let queue = place.open(&server());
        let mut arrivals = queue.consume(subscription(1), false).await.unwrap();
        let making = place.names.making();
        let exclusive = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        let made = channel.queue_declare(making.as_str().into(), exclusive, lapin::types::FieldTable::default());
        made.await.unwrap();
        let mut published = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { publish(&queue, vec![later(Duration::from_secs(1), false, "soon")]).await }
        });
        assert!(timeout(QUIET, &mut published).await.is_err(), "it did not wait");
        if lets_go {
            let let_go = channel.queue_delete(making.into(), QueueDeleteOptions::default());
            let_go.await.unwrap();
        }
        published.await.unwrap();
        message(&mut arrivals).await;
        // Where the levels are there, nobody waits.
        if !lets_go {
            let other = place.open(&server());
            timeout(
                SOON / 4,
                publish(&other, vec![later(Duration::from_secs(1), false, "more")]),
            )
            .await
            .unwrap();
        }
    }
}

#[tokio::test]
async fn a_changed_argument_is_explained() {
    let place = Place::new();
    let (_connection, channel) = beside().await;
    let name = place.names.work(&mail(), Class::High);
    let mut arguments = place.names.work_arguments();
    arguments.insert("x-delivery-limit".into(), lapin::types::AMQPValue::LongLongInt(5));
    let durable = QueueDeclareOptions::durable();
    channel
        .queue_declare(name.as_str().into(), durable, arguments)
        .await
        .unwrap();
    let queue = place.open(&server());
    let answers = queue.publish(vec![work(0), work(1)]).await;
    let Pushed::Rejected(why) = &answers[0] else {
        panic!("{answers:?}")
    };
    assert!(
        why.contains(&name) && why.contains("x-delivery-limit = \"5\"") && why.contains("another namespace"),
        "{why}"
    );
    assert_eq!(answers[1], Pushed::Accepted);
    let refused = queue.consume(subscription(1), false).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Unusable { problem, .. } if problem == why),
        "{refused}"
    );
    assert!(matches!(queue.depths(vec![mail()]).await, Err(Error::Unusable { .. })));
}
