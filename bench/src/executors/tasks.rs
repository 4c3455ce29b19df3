//! The jobs that are measured, and the executors that run them.

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Result, bail};
use millhand_broker::memory::Memory;
use millhand_proto::{Blob, Outcome, Payload, Task};
use millhand_worker::{Bare, Recycle, Slots, Worker};
use serde::{Deserialize, Serialize};

macro_rules! tasks {
    ($($name:ident($($args:ty)?) $text:literal -> $output:ty;)*) => { $(
        #[derive(Serialize, Deserialize)]
        pub(super) struct $name($(pub(super) $args)?);
        impl Task for $name {
            const NAME: &'static str = $text;
            type Output = $output;
        }
    )* }
}
tasks! {
    OnAsync() "async" -> ();
    OnThread() "thread" -> ();
    OnProcess() "process" -> u32;
    Spin() "spin" -> ();
    Every(Blob) "every-byte" -> usize;
}

/// Reads every byte: how many of them are 1.
pub(super) fn every_byte(bytes: &[u8]) -> usize {
    // In pieces whose count fits a byte, at the speed of memory.
    let ones = |piece: &[u8]| piece.iter().map(|byte| u8::from(*byte == 1)).sum::<u8>();
    bytes.chunks(255).map(|piece| usize::from(ones(piece))).sum()
}

/// Executors with so many child processes. In a child it does not return.
pub(super) fn bare(processes: usize, recycle: Recycle) -> Result<Bare> {
    let slots = Slots {
        asyncs: 1000,
        threads: 2,
        processes,
    };
    let worker = Worker::new(Memory::standing()?)
        .slots(slots)
        .recycle(recycle)
        .on_async(|_: OnAsync, _| std::future::ready(Ok(())))
        .on_thread(|_: OnThread, _| Ok(()))
        .on_process(|_: OnProcess, _| Ok(std::process::id()))
        .on_process(|_: Spin, _| {
            loop {
                black_box(());
            }
        })
        .on_process(|job: Every, _| Ok(every_byte(&job.0)));
    Ok(worker.bare()?)
}

/// Arguments of a job that has none.
pub(super) fn nothing<T: Task>(job: &T) -> Result<Payload> {
    Ok(Payload::encode(job)?)
}

/// Runs one to its result.
pub(super) async fn ran<T: Task>(bare: &Bare, args: &Payload) -> Result<T::Output> {
    match bare.run::<T>(args.clone(), None).await {
        Outcome::Succeeded(result) => Ok(result.decode()?),
        other => bail!("a job ended as {other:?}"),
    }
}

/// Runs one that does not end by itself to its hard limit.
pub(super) async fn ran_out<T: Task>(bare: &Bare, args: &Payload, limit: Duration) -> Result<()> {
    match bare.run::<T>(args.clone(), Some(limit)).await {
        Outcome::TimedOut(_) => Ok(()),
        other => bail!("a job without end ended as {other:?}"),
    }
}
