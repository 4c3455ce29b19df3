//! The async executor under its watchdog, and threads that leak.

use super::*;

/// Executors of these tasks alone, on a runtime of their own, looked after as the loop does it.
fn looked_after(registry: Registry, threads: usize, block_limit: Duration) -> Arc<Executors> {
    let sizes = Sizes {
        asyncs: 100,
        threads,
        processes: 1,
        recycle: Recycle::default(),
    };
    let executors = Executors::start(Arc::new(registry), sizes, None, block_limit, Arc::default()).unwrap();
    let executors = Arc::new(executors);
    let looked_at = Arc::downgrade(&executors);
    // From a thread that no task can hold.
    std::thread::spawn(move || {
        while let Some(executors) = looked_at.upgrade() {
            executors.look();
            drop(executors);
            std::thread::sleep(lag::PROBE);
        }
    });
    executors
}

/// As many threads as make every core busy.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn new() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) * 2 {
            let over = Arc::clone(&over);
            std::thread::spawn(move || while !over.load(Ordering::Relaxed) {});
        }
        Self(over)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Serialize, Deserialize)]
struct Other(Deed);
impl Task for Other {
    const NAME: &'static str = "other";
    type Output = Vec<u8>;
}

/// A few polls, none of them long.
async fn well_behaved() -> Result<Vec<u8>, Failure> {
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        tokio::task::yield_now().await;
    }
    Ok(Vec::new())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_task_of_twenty_that_blocks_is_named_and_the_others_are_not() {
    let mut registry = Registry::default();
    registry.on_async(async |_: Other, _| well_behaved().await, TaskOptions::default());
    registry.on_async(
        async |_: OnAsync, _| {
            tokio::task::yield_now().await;
            std::thread::sleep(Duration::from_millis(200));
            Ok(Vec::new())
        },
        TaskOptions::default(),
    );
    let executors = looked_after(registry, 0, limits::BLOCK_LIMIT);
    let mut runs = tokio::task::JoinSet::new();
    for n in 0..20 {
        let executors = Arc::clone(&executors);
        let task = if n == 13 { "on-async" } else { "other" };
        runs.spawn(async move { (task, executors.run(deed(task, Deed::Sleep)).await) });
    }
    while let Some(Ok((task, ran))) = runs.join_next().await {
        assert!(matches!(ran.outcome, Outcome::Succeeded(_)), "{ran:?}");
        let blocked = ran.blocked.unwrap();
        if task == "on-async" {
            assert!(blocked >= Duration::from_millis(190), "{blocked:?}");
            // It slept.
            assert!(ran.cpu.unwrap() < Duration::from_millis(50), "{ran:?}");
        } else {
            assert!(blocked < limits::BLOCK_LIMIT, "{blocked:?}");
        }
    }
    let (count, newest) = executors.dog().unwrap().long_polls();
    assert_eq!((count, newest.len()), (1, 1), "{newest:?}");
    assert_eq!(newest[0].task.as_str(), "on-async");
    assert!(newest[0].micros >= 190_000 && !newest[0].lasts, "{newest:?}");
    let lag = executors.dog().unwrap().lag();
    assert!(lag.is_some_and(|lag| lag.p50 <= lag.p99), "{lag:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_good_jobs_beside_busy_cores_are_no_alarm() {
    if !meter::knows_the_scheduler() {
        println!("no schedstat here: a busy machine counts as the task's");
        return;
    }
    let mut registry = Registry::default();
    registry.on_async(
        async |job: Other, _| {
            // Some work for so long that they are surely descheduled in the middle, all below the limit.
            let work = if job.0 == Deed::Sleep { 300 } else { 30_000 };
            let until = meter::cpu_time() + Duration::from_micros(work);
            while meter::cpu_time() < until {}
            well_behaved().await
        },
        TaskOptions::default(),
    );
    let executors = looked_after(registry, 0, limits::BLOCK_LIMIT);
    let busy = Busy::new();
    let mut runs = tokio::task::JoinSet::new();
    let mut longest = Duration::ZERO;
    for n in 0..10_000 {
        let executors = Arc::clone(&executors);
        let what = if n % 500 == 0 { Deed::Pid } else { Deed::Sleep };
        runs.spawn(async move { executors.run(deed("other", what)).await });
        if n >= 50 {
            longest = longest.max(runs.join_next().await.unwrap().unwrap().blocked.unwrap());
        }
    }
    while let Some(ran) = runs.join_next().await {
        longest = longest.max(ran.unwrap().blocked.unwrap());
    }
    drop(busy);
    println!("the longest poll: {longest:?}");
    assert_eq!(executors.dog().unwrap().long_polls(), (0, Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_that_does_not_end_is_seen_while_it_lasts_and_what_others_wait_is_told() {
    let mut registry = Registry::default();
    registry.on_async(
        async |_: OnAsync, cx: Context| {
            while !cx.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(Vec::new())
        },
        TaskOptions::default(),
    );
    let executors = looked_after(registry, 0, limits::BLOCK_LIMIT);
    // Every thread of the executor.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut runs = tokio::task::JoinSet::new();
    let mut stops = Vec::new();
    for _ in 0..cores {
        let (executors, run) = (Arc::clone(&executors), deed("on-async", Deed::Sleep));
        stops.push(run.stop.clone());
        runs.spawn(async move { executors.run(run).await });
    }
    let dog = executors.dog().unwrap();
    let last = |all: &[millhand_broker::LongPoll]| all.iter().filter(|poll| poll.lasts).count();
    while last(&dog.long_polls().1) < cores {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Still held: what waits for a thread now is seen to wait.
    while dog.lag().is_none_or(|lag| lag.p99 < 300_000) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stops.iter().for_each(|stop| stop.soft_limit(Duration::from_secs(1)));
    while runs.join_next().await.is_some() {}
    let (count, newest) = dog.long_polls();
    assert_eq!(
        (count, last(&newest)),
        (cores as u64, 0),
        "each is told of once: {newest:?}"
    );
    assert!(newest.iter().any(|poll| poll.others >= 200_000), "{newest:?}");
    assert!(dog.is_idle());
}

#[tokio::test]
async fn a_soft_limit_asks_and_an_error_after_it_is_a_timeout() {
    let mut registry = registry();
    registry.on_async(
        async |_: Other, cx: Context| {
            cx.cancelled().await;
            Err(Failure::new("stopped half way"))
        },
        TaskOptions::default(),
    );
    let executors = looked_after(registry, 1, limits::BLOCK_LIMIT);
    let soft = Duration::from_millis(50);
    for (task, what) in [("other", Deed::Sleep), ("on-thread", Deed::SpinUntilCancelled)] {
        let run = Run {
            soft: Some(soft),
            ..deed(task, what)
        };
        ended_at_soft(&executors, run).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_thread_that_ignores_its_cancel_is_leaked_until_it_ends() {
    let gate = Arc::new(AtomicBool::new(false));
    let open = Arc::clone(&gate);
    let mut registry = Registry::default();
    let handler = move |_: OnThread, _| {
        while !open.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(vec![1])
    };
    registry.on_thread(
        handler,
        TaskOptions {
            slots: Some(2),
            ..TaskOptions::default()
        },
    );
    let executors = looked_after(registry, 3, limits::BLOCK_LIMIT);
    let mut leaked = executors.leaked();
    let run = deed("on-thread", Deed::Sleep);
    let stop = run.stop.clone();
    let running = tokio::spawn({
        let executors = Arc::clone(&executors);
        async move { executors.run(run).await }
    });
    tokio::time::sleep(limits::LEAK_AFTER * 3).await;
    assert_eq!(*leaked.borrow(), 0, "nobody asked it to end");
    let asked = tokio::time::Instant::now();
    stop.cancel();
    let tick = Duration::from_millis(5);
    let before = tokio::time::timeout(limits::LEAK_AFTER.saturating_sub(tick), leaked.changed()).await;
    assert!(before.is_err(), "it may still end");
    leaked.changed().await.unwrap();
    assert_eq!(*leaked.borrow_and_update(), 2, "it took two slots");
    assert!(asked.elapsed() < limits::LEAK_AFTER + tick);
    assert!(!running.is_finished(), "nothing is said of it before it ends");
    gate.store(true, Ordering::SeqCst);
    let ran = running.await.unwrap();
    assert!(matches!(ran.outcome, Outcome::Succeeded(_)), "{ran:?}");
    assert_eq!(*leaked.borrow(), 0);
}
