//! Packing: which jobs travel together, under which ids.

use std::collections::HashMap;

use millhand_proto::{Class, Core, JobId, Mailbox, Parcel, QueueName, Timestamp, limits};

use crate::error::InvalidJob;
use crate::job::RawJob;

/// Parcels that are pushed at once.
const BATCH_PARCELS: usize = 1024;
/// Bytes of arguments that are held at once.
const BATCH_BYTES: usize = 16 << 20;

/// What jobs of one parcel share.
type Likeness = (QueueName, Class, Option<i64>);

/// Jobs on their way into one parcel.
struct Draft {
    random: u64,
    cores: Vec<Core>,
    places: Vec<usize>,
    bytes: usize,
}

/// A parcel and which of the caller's jobs are in it.
pub(crate) struct Packed {
    pub(crate) parcel: Parcel,
    pub(crate) places: Vec<usize>,
}

/// Packs jobs that are enqueued at one time into parcels.
pub(crate) struct Packer {
    pack: usize,
    now: Timestamp,
    mailbox: Mailbox,
    producer: Option<String>,
    open: HashMap<Likeness, Draft>,
    closed: Vec<Draft>,
    bytes: usize,
}

pub(crate) fn random() -> u64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    // Version and variant are fixed bits: each half hides the other's.
    high ^ low.rotate_left(32)
}

impl Packer {
    pub(crate) fn new(pack: usize, now: Timestamp, mailbox: Mailbox, producer: Option<String>) -> Self {
        let pack = pack.clamp(1, limits::PARCEL_JOBS);
        Self {
            pack,
            now,
            mailbox,
            producer,
            open: HashMap::new(),
            closed: Vec::new(),
            bytes: 0,
        }
    }

    /// Takes job number `place`; answers its id, also when it cannot be sent.
    pub(crate) fn add(&mut self, place: usize, job: RawJob) -> Result<JobId, (JobId, InvalidJob)> {
        let given = job.given_id();
        let weight = job.weight();
        let random = random();
        // Alone at first; its index is known when its neighbours are.
        let id = given.unwrap_or_else(|| JobId::minted(self.now, random, 0));
        let core = job
            .into_core(id, self.now, Some(self.mailbox), self.producer.clone())
            .map_err(|e| (id, e))?;
        self.bytes += weight;
        if given.is_some() || self.pack == 1 || weight > limits::PARCEL_BYTES {
            self.closed.push(Draft {
                random,
                cores: vec![core],
                places: vec![place],
                bytes: weight,
            });
            return Ok(id);
        }
        let likeness = (core.queue.clone(), core.class, core.not_before.map(Timestamp::as_secs));
        if let Some(draft) = self.open.get(&likeness)
            && draft.bytes + weight > limits::PARCEL_BYTES
        {
            self.closed.extend(self.open.remove(&likeness));
        }
        let draft = self.open.entry(likeness.clone()).or_insert_with(|| Draft {
            random,
            cores: Vec::new(),
            places: Vec::new(),
            bytes: 0,
        });
        let index = u16::try_from(draft.cores.len()).unwrap_or(u16::MAX);
        let id = JobId::minted(self.now, draft.random, index);
        draft.cores.push(Core { id, ..core });
        draft.places.push(place);
        draft.bytes += weight;
        if draft.cores.len() == self.pack {
            self.closed.extend(self.open.remove(&likeness));
        }
        Ok(id)
    }

    /// Whether it is time to push.
    pub(crate) fn is_full(&self) -> bool {
        self.closed.len() + self.open.len() >= BATCH_PARCELS || self.bytes >= BATCH_BYTES
    }

    /// The parcels.
    pub(crate) fn finish(mut self) -> Vec<Packed> {
        self.closed.extend(self.open.into_values());
        self.closed
            .into_iter()
            .filter_map(|draft| {
                // These jobs share header and record by construction, so packing cannot fail.
                let parcel = Parcel::pack(draft.cores).ok()?;
                Some(Packed {
                    parcel,
                    places: draft.places,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millhand_proto::{Payload, TaskName};

    use super::*;

    fn packer(pack: usize) -> Packer {
        let now = Timestamp::from_micros(1_790_000_000_000_000);
        Packer::new(pack, now, Mailbox::from_random([1; 16]), None)
    }

    fn job() -> RawJob {
        RawJob::new(TaskName::new("t").unwrap(), Payload::json("1").unwrap())
    }

    fn sizes(packer: Packer) -> Vec<usize> {
        let mut sizes: Vec<_> = packer.finish().iter().map(|p| p.places.len()).collect();
        sizes.sort_unstable();
        sizes
    }

    #[test]
    fn only_like_jobs_travel_together_and_given_ids_alone() {
        let mut p = packer(10);
        for place in 0..25 {
            p.add(place, job()).unwrap();
        }
        p.add(25, job().queue("slow")).unwrap();
        p.add(26, job().class(Class::High)).unwrap();
        p.add(27, job().delay(Duration::from_secs(9))).unwrap();
        p.add(28, job().delay(Duration::from_millis(9_500))).unwrap();
        p.add(29, job().id("mine")).unwrap();
        assert_eq!(sizes(p), [1, 1, 1, 2, 5, 10, 10]);
    }

    #[test]
    fn the_ids_answered_are_the_ids_sent_each_at_its_place() {
        let mut p = packer(7);
        let ids: Vec<_> = (0..20).map(|place| p.add(place, job()).unwrap()).collect();
        for packed in p.finish() {
            for (copy, place) in packed.parcel.jobs().iter().zip(&packed.places) {
                assert_eq!(copy.id(), ids[*place]);
            }
        }
    }

    #[test]
    fn a_parcel_is_full_to_the_byte_and_a_bigger_job_travels_alone() {
        let of = |weight: usize| {
            let text = "x".repeat(weight - job().weight() - 1);
            let job = RawJob::new(
                TaskName::new("t").unwrap(),
                Payload::json(format!("\"{text}\"")).unwrap(),
            );
            assert_eq!(job.weight(), weight);
            job
        };
        let parcels = |weights: &[usize]| {
            let mut p = packer(10);
            for (place, weight) in weights.iter().enumerate() {
                p.add(place, of(*weight)).unwrap();
            }
            sizes(p)
        };
        let half = limits::PARCEL_BYTES / 2;
        assert_eq!(parcels(&[half, half]), [2]);
        assert_eq!(parcels(&[half, half + 1]), [1, 1]);
        // It is in nobody's way: those before and behind it travel together.
        assert_eq!(parcels(&[1000, limits::PARCEL_BYTES + 1, 1000]), [1, 2]);
        assert_eq!(parcels(&[1000, limits::PARCEL_BYTES, 1000]), [1, 1, 1]);
    }

    #[test]
    fn a_parcel_stays_within_its_bytes() {
        let mut p = packer(1000);
        let big = Payload::json(format!("\"{}\"", "x".repeat(400_000))).unwrap();
        for place in 0..5 {
            p.add(place, RawJob::new(TaskName::new("t").unwrap(), big.clone()))
                .unwrap();
        }
        assert_eq!(sizes(p), [1, 2, 2]);
        assert_eq!(sizes(packer(1)), [0; 0]);
    }
}
