//! Faults of the server itself, which others would feel: one of their own, one test at a time.

use std::collections::HashSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use millhand_servers::Rabbit;
use tokio::sync::{MutexGuard, mpsc, watch};
use tokio::task::block_in_place;

use super::*;

static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn alone() -> (MutexGuard<'static, ()>, &'static Rabbit) {
    static SERVER: OnceLock<Rabbit> = OnceLock::new();
    let alone = ONE_AT_A_TIME.lock().await;
    (alone, block_in_place(|| SERVER.get_or_init(Rabbit::start)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_of_the_server_is_waited_out_and_work_goes_on() {
    let (_alone, server) = alone().await;
    let queue = Place::new().open(&server.url());
    publish(&queue, (0..6).map(work).collect()).await;
    block_in_place(|| server.ctl(&["set_vm_memory_high_watermark", "0"]));
    let sending = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { queue.publish((6..12).map(work).collect()).await }
    });
    let mut arrivals = queue.consume(subscription(10), false).await.unwrap();
    let first = messages(&mut arrivals, 6).await;
    queue.acknowledge(first.iter().map(|a| a.id).collect());
    quiet(&mut arrivals).await;
    assert_eq!(queue.depths(vec![mail()]).await.unwrap(), [0]);
    assert!(!sending.is_finished());
    let why = queue.outbox.why().unwrap_or_default();
    assert!(why.contains("memory or disk alarm"), "{why}");
    block_in_place(|| server.ctl(&["set_vm_memory_high_watermark", "0.4"]));
    let answers = sending.await.unwrap();
    assert!(answers.iter().all(|a| *a == Pushed::Accepted), "{answers:?}");
    messages(&mut arrivals, 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_in_the_right_places() {
    let (_alone, server) = alone().await;
    let place = Place::new();
    let queue = place.open(&server.url());
    let pattern = place.names.work(&mail(), Class::High).replace('.', "\\.");
    let limit = [
        "set_policy",
        "full",
        pattern.as_str(),
        r#"{"max-length":3}"#,
        "--apply-to",
        "queues",
    ];
    block_in_place(|| server.ctl(&limit));
    // The limit is a soft one: some more may slip in before the publisher's channel hears of it.
    let by = Instant::now() + SOON;
    while queue.publish(vec![work(0)]).await == [Pushed::Accepted] {
        assert!(Instant::now() < by, "the queue is never full");
    }
    let answers = queue.publish((0..60).map(work).collect()).await;
    for (number, answer) in answers.iter().enumerate() {
        match answer {
            Pushed::Accepted => assert_ne!(number % 3, 0, "{answers:?}"),
            Pushed::Rejected(why) => assert!(number % 3 == 0 && why.contains("full"), "{answers:?}"),
            Pushed::Unknown(_) => panic!("{answers:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_for_too_long_is_told_to_be_lost_and_comes_again() {
    let (_alone, server) = alone().await;
    let queue = Place::new().open(&server.url());
    let set = |millis: u32| {
        let set = format!(
            "application:set_env(rabbit, consumer_timeout, {millis}), \
             application:set_env(rabbit, channel_tick_interval, {millis})."
        );
        block_in_place(|| server.ctl(&["eval", &set]));
    };
    set(1000);
    let mut arrivals = queue.consume(subscription(10), false).await.unwrap();
    publish(&queue, vec![work(0)]).await;
    let first = message(&mut arrivals).await;
    assert_eq!(lost(&mut arrivals).await, Generation::of(first.id).0);
    set(60_000);
    assert_eq!(message(&mut arrivals).await.redeliveries, 1);
}

/// Numbers that were accepted, from publishers that go on until they are told to stop.
async fn publishers(queue: &Arc<RabbitMq>, stop: &Arc<AtomicBool>) -> mpsc::UnboundedReceiver<usize> {
    let (accepted, numbers) = mpsc::unbounded_channel();
    for publisher in 0..3 {
        let (queue, stop, accepted) = (Arc::clone(queue), Arc::clone(stop), accepted.clone());
        tokio::spawn(async move {
            let mut batches = (publisher * 1_000_000..).step_by(20);
            while let Some(from) = batches.next().filter(|_| !stop.load(Ordering::SeqCst)) {
                let answers = queue.publish((from..from + 20).map(work).collect()).await;
                let fine = (from..).zip(answers).filter(|(_, answer)| *answer == Pushed::Accepted);
                for (number, _) in fine {
                    let _ = accepted.send(number);
                }
            }
        });
    }
    numbers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_nothing_that_was_accepted() {
    let (_alone, server) = alone().await;
    let queue = Place::new().open(&server.url());
    let mut arrivals = queue.consume(subscription(50), false).await.unwrap();
    // RabbitMQ 3.10 that is killed right after it made a queue may bring it back without a leader.
    block_in_place(|| {
        server.stop();
        server.restart();
    });
    let stop = Arc::<AtomicBool>::default();
    let mut accepted = publishers(&queue, &stop).await;
    let (seen, mut looked) = watch::channel(HashSet::<usize>::new());
    let reader = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move {
            // Each is acknowledged a little after it came, and counts then.
            let mut held: Vec<Arrival> = Vec::new();
            while let Some(arrived) = arrivals.arrived.recv().await {
                match arrived {
                    Arrived::Message(arrival) => held.push(arrival),
                    Arrived::Lost(generation) => held.retain(|a| Generation::of(a.id).0 != generation),
                }
                let done = held.len().saturating_sub(30);
                for arrival in held.drain(..done) {
                    let number = std::str::from_utf8(&arrival.body).unwrap().parse().unwrap();
                    seen.send_modify(|seen| {
                        seen.insert(number);
                    });
                    queue.acknowledge(vec![arrival.id]);
                }
            }
        }
    });
    let mut numbers = Vec::new();
    for _ in 0..2 {
        let more = async {
            let target = numbers.len() + 200;
            while numbers.len() < target {
                numbers.push(accepted.recv().await.unwrap());
            }
        };
        timeout(3 * SOON, more).await.expect("nothing is accepted");
        block_in_place(|| {
            server.kill();
            server.restart();
        });
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(number) = accepted.recv().await {
        numbers.push(number);
    }
    // These push the last ones through the reader's hands.
    publish(&queue, (9_000_000..9_000_090).map(work).collect()).await;
    let missing = |seen: &HashSet<usize>| numbers.iter().filter(|number| !seen.contains(number)).count();
    let all = timeout(3 * SOON, looked.wait_for(|seen| missing(seen) == 0))
        .await
        .is_ok();
    assert!(all, "{} of {} are missing", missing(&looked.borrow()), numbers.len());
    reader.abort();
}
