//! Consuming: a channel per subscription with a consumer per class. A fault of either is the fault of
//! both: the channel is closed, what it delivered is told to be lost, and another one is opened.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{StreamExt, stream};
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::FieldTable;
use millhand_proto::{Class, WorkerId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::acks::{Acking, Acks};
use super::headers::told;
use super::link::{FIRST_PAUSE, LAST_PAUSE, Link, Wire};
use super::names::Names;
use super::topology::Thing;
use super::trouble::Trouble;
use crate::backend::{Flow, Subscription};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::io::jitter;
use crate::lock::lock;
use crate::pair::queue::{Arrival, Arrivals, Arrived, Generation};

/// Deliveries between this thread and the reader; the prefetch bounds them too.
const BUFFER: usize = 256;
/// How long a worker's consumers may take to end.
const LEAVE: Duration = Duration::from_secs(5);

/// The next channel's generation.
pub(super) fn generation() -> Generation {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Generation(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Everything that is consumed.
#[derive(Debug)]
pub(super) struct Consuming {
    pub(super) link: Arc<Link>,
    pub(super) names: Names,
    pub(super) acks: Arc<Acks>,
    readers: Mutex<HashMap<WorkerId, Vec<Running>>>,
}

#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Consuming {
    pub(super) fn new(link: Arc<Link>, names: Names, acks: Arc<Acks>) -> Arc<Self> {
        Arc::new(Self {
            link,
            names,
            acks,
            readers: Mutex::default(),
        })
    }

    /// Starts a subscription; a fault of this first try is told, later ones are mended.
    pub(super) async fn start(self: Arc<Self>, subscription: Subscription, held: bool) -> Result<Arrivals> {
        let (out, arrived) = mpsc::channel(BUFFER);
        let start = if held {
            Flow::Held
        } else {
            Flow::Open(subscription.prefetch)
        };
        let (flow, flows) = watch::channel(start);
        let (told, trouble) = watch::channel(None);
        let (stop, stopped) = oneshot::channel();
        let (started, begun) = oneshot::channel();
        let worker = subscription.worker;
        let reader = Reader {
            consuming: Arc::clone(&self),
            subscription,
            out,
            flow: flows,
            trouble: told,
        };
        let task = tokio::spawn(reader.run(started, stopped));
        {
            let mut readers = lock(&self.readers);
            readers.retain(|_, of_worker| {
                of_worker.retain(|reader| !reader.task.is_finished());
                !of_worker.is_empty()
            });
            readers.entry(worker).or_default().push(Running { stop, task });
        }
        begun.await.map_err(|_| Error::Closed)??;
        Ok(Arrivals { arrived, flow, trouble })
    }

    /// Ends a worker's subscriptions.
    pub(super) async fn leave(self: Arc<Self>, worker: WorkerId) {
        let readers = {
            let mut readers = lock(&self.readers);
            readers.remove(&worker).unwrap_or_default()
        };
        let (stops, tasks): (Vec<_>, Vec<_>) = readers.into_iter().map(|r| (r.stop, r.task)).unzip();
        drop(stops);
        if timeout(LEAVE, futures_util::future::join_all(tasks)).await.is_err() {
            tracing::warn!(%worker, "a channel does not close; what it holds comes again with its connection's end");
        }
    }
}

/// Why a channel is left.
enum End {
    /// Nobody wants more; what is in hands may still be settled.
    Over,
    /// Its worker has left.
    Left,
    Fault(Trouble),
}

/// One subscription.
struct Reader {
    consuming: Arc<Consuming>,
    subscription: Subscription,
    out: mpsc::Sender<Arrived>,
    flow: watch::Receiver<Flow>,
    trouble: watch::Sender<Option<String>>,
}

impl Reader {
    async fn run(mut self, started: oneshot::Sender<Result<()>>, mut stopped: oneshot::Receiver<()>) {
        let mut started = Some(started);
        let mut pause = FIRST_PAUSE;
        loop {
            let wire = tokio::select! {
                wire = self.consuming.link.get() => wire,
                () = self.over(&mut stopped) => return,
            };
            // To the end also when it is over: who leaves waits until all is closed again.
            let opened = match wire {
                Ok(wire) => self.open(wire).await,
                Err(error) => Err(error),
            };
            let since = Instant::now();
            match opened {
                Ok(mut session) => {
                    if let Some(started) = started.take() {
                        let _ = started.send(Ok(()));
                    }
                    self.trouble.send_replace(None);
                    let end = self.serve(&mut session, &mut stopped).await;
                    let generation = session.acking.generation;
                    if let End::Fault(trouble) = &end {
                        self.trouble.send_replace(Some(trouble.text.clone()));
                        // Its queues may be gone.
                        session.wire.topology.forget();
                    }
                    if matches!(end, End::Over) {
                        session.linger(&mut stopped).await;
                    }
                    session.close().await;
                    let End::Fault(trouble) = end else { return };
                    self.warn(&trouble);
                    if self.out.send(Arrived::Lost(generation)).await.is_err() {
                        return;
                    }
                }
                Err(error) => match started.take() {
                    Some(started) => {
                        let _ = started.send(Err(error));
                        return;
                    }
                    None => {
                        let (queue, why) = (&self.subscription.queue, error.to_string());
                        // It is tried again every other second: said when it is another reason.
                        if self.trouble.borrow().as_ref() == Some(&why) {
                            tracing::debug!(%queue, %error, "no deliveries for now");
                        } else {
                            tracing::warn!(%queue, %error, "no deliveries for now");
                        }
                        self.trouble.send_replace(Some(why));
                    }
                },
            }
            if since.elapsed() > LAST_PAUSE {
                pause = FIRST_PAUSE;
            }
            tokio::select! {
                () = sleep(jitter(pause)) => {}
                () = self.over(&mut stopped) => return,
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    fn warn(&self, trouble: &Trouble) {
        let queue = &self.subscription.queue;
        if trouble.is_consumer_timeout() {
            tracing::warn!(
                %queue,
                error = trouble.text,
                "RabbitMQ took back what was held for longer than its consumer_timeout: set consumer_timeout in \
                 rabbitmq.conf to more than the longest job takes, or lower the prefetch"
            );
        } else {
            tracing::warn!(%queue, error = trouble.text, "the consuming channel is made again");
        }
    }

    /// Resolves when nobody wants deliveries any more.
    async fn over(&self, stopped: &mut oneshot::Receiver<()>) {
        let mut flow = self.flow.clone();
        let let_go = async { while flow.changed().await.is_ok() {} };
        tokio::select! {
            _ = stopped => {}
            () = self.out.closed() => {}
            () = let_go => {}
        }
    }

    async fn open(&self, wire: Arc<Wire>) -> Result<Session> {
        let Consuming { link, names, acks, .. } = &*self.consuming;
        let opened = async {
            for class in Class::ALL {
                let work = Thing::Work(self.subscription.queue.clone(), class);
                wire.ensure(names, &work).await?;
            }
            let channel = wire.channel().await?;
            let mut session = Session {
                acking: acks.begin(generation(), &channel),
                subscription: self.subscription.clone(),
                names: names.clone(),
                deliveries: SelectAll::new(),
                open: None,
                run: 0,
                wire: Arc::clone(&wire),
                channel,
            };
            let flow = *self.flow.borrow();
            session.set(flow).await?;
            Ok(session)
        };
        opened.await.map_err(|trouble: Trouble| {
            wire.topology.forget();
            link.told(&trouble)
        })
    }

    /// Passes deliveries on until the channel is of no use.
    async fn serve(&mut self, session: &mut Session, stopped: &mut oneshot::Receiver<()>) -> End {
        let wire = Arc::clone(&session.wire);
        let mut gone = std::pin::pin!(wire.gone());
        loop {
            let deliveries = &mut session.deliveries;
            let waiting = !deliveries.is_empty();
            // A place first: what nobody has room for stays in the channel, which the prefetch bounds.
            let next = async { (self.out.reserve().await, deliveries.next().await) };
            tokio::select! {
                next = next, if waiting => match next {
                    (Err(_), _) => return End::Over,
                    (Ok(place), Some(Tapped::Delivery(delivery))) => {
                        session.acking.acker.delivered(delivery.delivery_tag);
                        place.send(Arrived::Message(arrival(session.acking.generation, *delivery)));
                    }
                    (Ok(_), Some(Tapped::Failed(error))) => return End::Fault(wire.trouble(&error)),
                    (Ok(_), Some(Tapped::Ended(run))) if run == session.run && session.open.is_some() => {
                        return End::Fault(Trouble::passing("RabbitMQ ended the consumer".into()));
                    }
                    (Ok(_), _) => {}
                },
                changed = self.flow.changed() => {
                    if changed.is_err() {
                        return End::Over;
                    }
                    let flow = *self.flow.borrow_and_update();
                    if let Err(trouble) = session.set(flow).await {
                        return End::Fault(trouble);
                    }
                }
                () = gone.as_mut() => return End::Fault(Trouble::passing("the connection is gone".into())),
                _ = &mut *stopped => return End::Left,
                () = self.out.closed() => return End::Over,
            }
        }
    }
}

/// What a consumer yields.
enum Tapped {
    Delivery(Box<Delivery>),
    Failed(lapin::Error),
    /// The consumer of this run has ended.
    Ended(u64),
}

/// One channel of a subscription.
struct Session {
    subscription: Subscription,
    names: Names,
    wire: Arc<Wire>,
    channel: Channel,
    acking: Acking,
    deliveries: SelectAll<BoxStream<'static, Tapped>>,
    /// The prefetch with which its consumers run, while they do.
    open: Option<u16>,
    /// How often consumers were started.
    run: u64,
}

impl Session {
    async fn set(&mut self, flow: Flow) -> std::result::Result<(), Trouble> {
        let wanted = match flow {
            Flow::Open(prefetch) => Some(u16::try_from(prefetch.max(1)).unwrap_or(u16::MAX)),
            Flow::Held => None,
        };
        if let (Some(has), Some(wants)) = (self.open, wanted)
            && has.abs_diff(wants) < has.div_ceil(4)
        {
            return Ok(());
        }
        if self.open.take().is_some() {
            self.cancel().await?;
        }
        if let Some(prefetch) = wanted {
            self.consume(prefetch).await?;
        }
        self.open = wanted;
        Ok(())
    }

    fn tag(&self, class: Class) -> String {
        format!("{}.{class}.{}", self.subscription.worker, self.run)
    }

    /// Ends the consumers. What they delivered stays in hands, and what they have on the way comes.
    async fn cancel(&mut self) -> std::result::Result<(), Trouble> {
        let this = &*self;
        let cancelled = Class::ALL.map(|class| {
            let tag = this.tag(class);
            this.wire
                .answer(this.channel.basic_cancel(tag.into(), BasicCancelOptions::default()))
        });
        try_join_all(cancelled).await.map(drop)
    }

    /// Starts consumers of all classes. RabbitMQ applies a prefetch to consumers that come after it.
    async fn consume(&mut self, prefetch: u16) -> std::result::Result<(), Trouble> {
        let qos = self.channel.basic_qos(prefetch, BasicQosOptions { global: false });
        self.wire.answer(qos).await?;
        self.run += 1;
        let run = self.run;
        let this = &*self;
        let consumers = Class::ALL.map(|class| {
            let queue = this.names.work(&this.subscription.queue, class);
            let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
            let tag = this.tag(class);
            this.wire
                .answer(this.channel.basic_consume(queue.into(), tag.into(), options, none))
        });
        for consumer in try_join_all(consumers).await? {
            let tapped = consumer.map(|delivery| match delivery {
                Ok(delivery) => Tapped::Delivery(Box::new(delivery)),
                Err(error) => Tapped::Failed(error),
            });
            // The end of a consumer is silent; here it speaks.
            let ended = stream::once(async move { Tapped::Ended(run) });
            self.deliveries.push(tapped.chain(ended).boxed());
        }
        Ok(())
    }

    /// Takes no more, and waits until what is in hands is settled or its worker leaves.
    async fn linger(&mut self, left: &mut oneshot::Receiver<()>) {
        let wire = Arc::clone(&self.wire);
        let settled = async {
            if self.open.take().is_some() && self.cancel().await.is_err() {
                return;
            }
            // What nobody has seen goes back at once.
            while let Some(tapped) = self.deliveries.next().await {
                if let Tapped::Delivery(delivery) = tapped {
                    let back = BasicNackOptions {
                        multiple: false,
                        requeue: true,
                    };
                    let _ = self.channel.basic_nack(delivery.delivery_tag, back).await;
                    self.acking.acker.given_back(delivery.delivery_tag);
                }
            }
            self.acking.acker.all_done().await;
        };
        tokio::select! {
            () = settled => {}
            () = wire.gone() => {}
            _ = left => {}
        }
    }

    /// Writes the last acknowledgements and closes the channel; what is in hands goes back.
    async fn close(self) {
        self.acking.finish().await;
        let _ = self.wire.answer(self.channel.close(200, "OK".into())).await;
    }
}

/// A delivery as the pair sees it.
pub(super) fn arrival(generation: Generation, delivery: Delivery) -> Arrival {
    let (redeliveries, published_at) = told(&delivery.properties);
    Arrival {
        id: generation.delivery(delivery.delivery_tag),
        redeliveries: redeliveries.max(u32::from(delivery.redelivered)),
        published_at,
        taken_at: Clock::system().now(),
        body: delivery.data.into(),
    }
}
