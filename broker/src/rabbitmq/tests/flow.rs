//! Messages that go in and come out: each once, in time, as far as queues take and give them.

use std::collections::HashMap;

use super::*;
use crate::backend::Flow;

#[tokio::test]
async fn what_is_published_is_consumed_once_and_acknowledged() {
    const MESSAGES: usize = 10_000;
    let place = Place::new();
    let queue = place.open(&server());
    let mut arrivals = queue.consume(subscription(200), false).await.unwrap();
    let batches = (0..MESSAGES).step_by(500).map(|from| {
        let batch = (from..from + 500).map(work).collect();
        publish(&queue, batch)
    });
    let sent = futures_util::future::join_all(batches);
    let received = async {
        let mut seen = HashMap::new();
        for number in 0..MESSAGES {
            let arrival = message(&mut arrivals).await;
            assert_eq!(arrival.redeliveries, 0);
            assert!(arrival.published_at.unwrap() <= arrival.taken_at);
            *seen.entry(arrival.body.clone()).or_insert(0) += 1;
            // Out of order, as jobs end.
            if number % 3 == 0 {
                tokio::task::yield_now().await;
            }
            queue.acknowledge(vec![arrival.id]);
        }
        seen
    };
    let (_, seen) = tokio::join!(sent, received);
    assert_eq!(seen.len(), MESSAGES);
    assert!(seen.values().all(|times| *times == 1));
    drop(arrivals);
    depth(&queue, 0).await;
    // Had an acknowledgement been lost, the message would be back by now.
    let mut again = queue.consume(subscription(1), false).await.unwrap();
    quiet(&mut again).await;
}

#[tokio::test]
async fn a_delayed_message_is_not_early_and_a_little_late_at_most() {
    let queue = Place::new().open(&server());
    let mut arrivals = queue.consume(subscription(10), false).await.unwrap();
    let start = Instant::now();
    let waits = vec![
        later(Duration::from_secs(3), false, "3"),
        later(Duration::from_millis(900), true, "1"),
    ];
    publish(&queue, waits).await;
    let published = start.elapsed();
    for (body, wait) in [("1", Duration::from_secs(1)), ("3", Duration::from_secs(3))] {
        let arrival = message(&mut arrivals).await;
        assert_eq!(arrival.body, body);
        assert_eq!(arrival.redeliveries, 0);
        let late = start.elapsed();
        assert!(
            late >= wait && late < wait + published + Duration::from_secs(2),
            "{body} came after {late:?}"
        );
        queue.acknowledge(vec![arrival.id]);
    }
}

#[tokio::test]
async fn held_delivers_nothing_and_open_goes_on() {
    let queue = Place::new().open(&server());
    let mut arrivals = queue.consume(subscription(100), true).await.unwrap();
    publish(&queue, (0..12).map(work).collect()).await;
    quiet(&mut arrivals).await;
    arrivals.flow.send_replace(Flow::Open(1));
    let first = messages(&mut arrivals, 3).await;
    quiet(&mut arrivals).await;
    // What is in hands stays valid while nothing comes.
    arrivals.flow.send_replace(Flow::Held);
    depth(&queue, 9).await;
    queue.acknowledge(first.iter().map(|a| a.id).collect());
    quiet(&mut arrivals).await;
    arrivals.flow.send_replace(Flow::Open(2));
    let second = messages(&mut arrivals, 6).await;
    assert!(second.iter().all(|a| a.redeliveries == 0), "{second:?}");
    queue.acknowledge(second.iter().map(|a| a.id).collect());
    let third = messages(&mut arrivals, 3).await;
    queue.acknowledge(third.iter().map(|a| a.id).collect());
    drop(arrivals);
    depth(&queue, 0).await;
}

#[tokio::test]
async fn what_a_worker_that_leaves_holds_goes_back() {
    let queue = Place::new().open(&server());
    let subscription = subscription(10);
    let mut arrivals = queue.consume(subscription.clone(), false).await.unwrap();
    publish(&queue, (0..9).map(work).collect()).await;
    let held = messages(&mut arrivals, 9).await;
    queue.acknowledge(held[..4].iter().map(|a| a.id).collect());
    queue.leave(subscription.worker).await;
    assert!(arrivals.arrived.recv().await.is_none());
    depth(&queue, 5).await;
    let mut arrivals = queue.consume(subscription, false).await.unwrap();
    let again = messages(&mut arrivals, 5).await;
    assert!(again.iter().all(|a| a.redeliveries == 1), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_while_its_consumer_starts_has_given_all_back() {
    let place = Place::new();
    let queue = place.open(&server());
    for patience in 0..24 {
        publish(&queue, (0..30).map(work).collect()).await;
        let subscription = subscription(30);
        let worker = subscription.worker;
        let patience = Duration::from_micros(patience * 500);
        let _ = timeout(patience, queue.consume(subscription, false)).await;
        queue.leave(worker).await;
        assert_eq!(queue.purge(mail()).await.unwrap(), 30, "given up after {patience:?}");
    }
}

#[tokio::test]
async fn side_queues_give_what_is_taken_until_it_is_acknowledged() {
    let queue = Place::new().open(&server());
    let aside =
        |body: &'static str, keep| Outgoing::new(Route::Side(Side::Dead, keep), Bytes::from_static(body.as_bytes()));
    publish(
        &queue,
        vec![
            aside("a", None),
            aside("b", None),
            aside("c", Some(Duration::from_millis(1))),
        ],
    )
    .await;
    let mut taken = queue.take(Side::Dead, 2).await.unwrap();
    assert_eq!(taken.len(), 2);
    assert!(queue.take(Side::Dead, 10).await.unwrap().iter().all(|a| a.body == "c"));
    taken.sort_by_key(|a| a.body.clone());
    queue.acknowledge(taken.iter().map(|a| a.id).collect());
    let by = Instant::now() + SOON;
    while queue.depth_of(Side::Dead).await.unwrap() > 0 {
        assert!(Instant::now() < by);
    }
    assert_eq!(queue.depth_of(Side::Lost).await.unwrap(), 0);
    publish(&queue, (0..7).map(work).collect()).await;
    assert_eq!(queue.purge(mail()).await.unwrap(), 7);
    assert_eq!(
        queue
            .depths(vec![mail(), QueueName::new("other").unwrap()])
            .await
            .unwrap(),
        [0, 0]
    );
}

/// A worker whose slots wait until it has got rid of something can never empty a queue that is too full to take
/// it.
#[tokio::test]
async fn what_a_full_queue_refuses_goes_by_the_ladder_when_it_must() {
    let place = Place::new();
    let queue = place.open(&server());
    publish(&queue, vec![work(1)]).await;
    let pattern = format!("^{}$", place.names.work(&mail(), Class::ALL[1]).replace('.', "\\."));
    let policy = [
        "set_policy",
        "full-mail",
        &pattern,
        r#"{"max-length":1}"#,
        "--apply-to",
        "queues",
    ];
    let rabbit = &millhand_servers::shared().rabbit;
    rabbit.ctl(&policy);
    // RabbitMQ applies a policy a little later, and one message may still get in.
    let refused = loop {
        match queue.publish(vec![work(1)]).await.remove(0) {
            Pushed::Accepted => {}
            Pushed::Rejected(why) => break why,
            Pushed::Unknown(why) => panic!("{why}"),
        }
    };
    assert!(refused.contains("full"), "{refused}");
    // Some of them may still get in.
    let must = || Outgoing::new(Route::Work(mail(), Class::ALL[1]), Bytes::from_static(b"must")).or_later();
    publish(&queue, (0..200).map(|_| must()).collect()).await;
    rabbit.ctl(&["clear_policy", "full-mail"]);
}

/// As one may be for minutes after its server was killed and is there again.
#[tokio::test]
async fn a_queue_that_confirms_nothing_holds_up_no_other() {
    let place = Place::new();
    let queue = place.open(&server());
    publish(&queue, (0..3).map(work).collect()).await;
    let stopped = place.names.work(&mail(), Class::ALL[1]);
    let rabbit = &millhand_servers::shared().rabbit;
    rabbit.ctl(&["eval", &format!("sys:suspend('%2F_{stopped}').")]);
    let mut waiting = Vec::new();
    for _ in 0..8 {
        // One after the other, so that each has a window.
        let queue = Arc::clone(&queue);
        let mut publishes = tokio::spawn(async move { queue.publish(vec![work(1), work(0)]).await });
        assert!(timeout(QUIET / 4, &mut publishes).await.is_err(), "it is confirmed");
        waiting.push(publishes);
    }
    publish(&queue, vec![work(0), work(2)]).await;
    rabbit.ctl(&["eval", &format!("sys:resume('%2F_{stopped}').")]);
    for publishes in waiting {
        // On a slow machine their time may be up.
        let answers = publishes.await.unwrap();
        let known = |answer: &Pushed| matches!(answer, Pushed::Accepted | Pushed::Unknown(_));
        assert!(answers.iter().all(known), "{answers:?}");
    }
    publish(&queue, vec![work(1)]).await;
}
