//! What commands answer that do something, or look something up.

use millhand_proto::limits::Limit;
use millhand_worker::child_check::{Checked, Verdict};
use serde::Serialize;
use serde_json::value::RawValue;

#[derive(Debug, Serialize)]
pub(crate) struct Items<T> {
    pub(crate) schema: String,
    pub(crate) items: Vec<T>,
}

#[derive(Debug, Serialize)]
pub(crate) struct WaitJson {
    pub(crate) id: String,
    pub(crate) outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<Box<RawValue>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ActJson {
    pub(crate) id: String,
    pub(crate) outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ActDocument {
    pub(crate) schema: String,
    pub(crate) dry_run: bool,
    pub(crate) done: usize,
    pub(crate) asked: usize,
    pub(crate) refused: usize,
    pub(crate) unknown: usize,
    pub(crate) items: Vec<ActJson>,
}

#[derive(Debug, Serialize)]
pub(crate) struct EnqueueJson {
    schema: &'static str,
    id: String,
    task: String,
    queue: String,
}

impl EnqueueJson {
    pub(crate) fn new(id: String, task: String, queue: String) -> Self {
        Self {
            schema: "millhand.enqueue/1",
            id,
            task,
            queue,
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct ControlJson {
    pub(crate) schema: String,
    pub(crate) queue: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) changed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) purged: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dry_run: Option<bool>,
}

#[derive(Debug, Serialize)]
pub(crate) struct CheckJson {
    name: &'static str,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

impl From<Checked> for CheckJson {
    fn from(Checked { name, verdict }: Checked) -> Self {
        let (verdict, why) = match verdict {
            Verdict::Passed => ("passed", None),
            Verdict::Failed(why) => ("failed", Some(why)),
            Verdict::Skipped(why) => ("skipped", Some(why.to_owned())),
        };
        Self { name, verdict, why }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct LimitJson {
    name: &'static str,
    value: &'static str,
    meaning: &'static str,
}

impl From<&Limit> for LimitJson {
    fn from(limit: &Limit) -> Self {
        Self {
            name: limit.name,
            value: limit.value,
            meaning: limit.meaning,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acts_waits_controls_and_limits() {
        let act = ActDocument {
            schema: "millhand.job.cancel/1".into(),
            dry_run: false,
            done: 1,
            asked: 0,
            refused: 1,
            unknown: 0,
            items: vec![ActJson {
                id: "a".into(),
                outcome: "refused",
                why: Some("it is dead already".into()),
            }],
        };
        let wait = WaitJson {
            id: "a".into(),
            outcome: "dead",
            why: Some("dead after 1 attempt".into()),
            result: None,
        };
        let purge = ControlJson {
            schema: "millhand.queue.purge/1".into(),
            queue: "mail".into(),
            changed: None,
            purged: Some(7),
            dry_run: None,
        };
        let limit = LimitJson::from(&millhand_proto::limits::TABLE[0]);
        let lines = [
            serde_json::to_string(&act).unwrap(),
            serde_json::to_string(&Items {
                schema: "millhand.job.wait/1".into(),
                items: vec![wait],
            })
            .unwrap(),
            serde_json::to_string(&purge).unwrap(),
            serde_json::to_string(&limit).unwrap(),
            serde_json::to_string(&EnqueueJson::new("a".into(), "t".into(), "default".into())).unwrap(),
        ];
        insta::assert_snapshot!(lines.join("\n"), @r#"
        {"schema":"millhand.job.cancel/1","dry_run":false,"done":1,"asked":0,"refused":1,"unknown":0,"items":[{"id":"a","outcome":"refused","why":"it is dead already"}]}
        {"schema":"millhand.job.wait/1","items":[{"id":"a","outcome":"dead","why":"dead after 1 attempt"}]}
        {"schema":"millhand.queue.purge/1","queue":"mail","purged":7}
        {"name":"name","value":"64 characters","meaning":"task, queue and namespace names; longer ones are refused"}
        {"schema":"millhand.enqueue/1","id":"a","task":"t","queue":"default"}
        "#);
    }
}
