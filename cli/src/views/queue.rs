//! Queues.

use millhand_broker::{QueueView, Unreadable};
use millhand_proto::Timestamp;
use serde::Serialize;

use crate::times::rfc3339;

#[derive(Debug, Serialize)]
pub(crate) struct QueueJson {
    name: String,
    queued: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    scheduled: Option<u64>,
    held: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_queued_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_since: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreadable: Vec<UnreadableJson>,
}

#[derive(Debug, Serialize)]
struct UnreadableJson {
    at: String,
    reason: String,
    size_bytes: usize,
}

impl From<&Unreadable> for UnreadableJson {
    fn from(it: &Unreadable) -> Self {
        Self {
            at: rfc3339(it.at),
            reason: it.reason.clone(),
            size_bytes: it.bytes,
        }
    }
}

impl From<&QueueView> for QueueJson {
    fn from(queue: &QueueView) -> Self {
        Self {
            name: queue.name.to_string(),
            queued: queue.trouble.is_none().then_some(queue.queued),
            trouble: queue.trouble.clone(),
            scheduled: queue.scheduled,
            held: queue.held,
            oldest_queued_at: queue.oldest.map(rfc3339),
            paused_since: queue.paused.map(rfc3339),
            unreadable: queue.unreadable.iter().map(UnreadableJson::from).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct QueueList {
    schema: &'static str,
    as_of: String,
    pub(crate) items: Vec<QueueJson>,
}

impl QueueList {
    pub(crate) fn new(queues: &[QueueView], now: Timestamp) -> Self {
        let items = queues.iter().map(QueueJson::from).collect();
        Self {
            schema: "millhand.queue.list/1",
            as_of: rfc3339(now),
            items,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, NOW};
    use crate::views::pretty;

    #[test]
    fn a_list_of_queues() {
        insta::assert_snapshot!(pretty(&QueueList::new(&fixture::queues(), NOW)), @r#"
        {
          "schema": "millhand.queue.list/1",
          "as_of": "2031-02-03T04:05:06.789Z",
          "items": [
            {
              "name": "default",
              "queued": 12410,
              "scheduled": 3,
              "held": 4,
              "oldest_queued_at": "2031-02-03T03:03:26.789Z"
            },
            {
              "name": "mail",
              "queued": 0,
              "scheduled": 3,
              "held": 4,
              "paused_since": "2031-02-03T04:04:06.789Z",
              "unreadable": [
                {
                  "at": "2031-02-03T04:04:56.789Z",
                  "reason": "values nest deeper\u001b than 64 levels",
                  "size_bytes": 20000
                }
              ]
            },
            {
              "name": "odd",
              "queued": null,
              "trouble": "queue mh.main.1.q.odd.normal has other arguments",
              "scheduled": 3,
              "held": 4
            }
          ]
        }
        "#);
    }
}
