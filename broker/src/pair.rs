//! RabbitMQ carries, Redis remembers.

pub(crate) mod queue;
