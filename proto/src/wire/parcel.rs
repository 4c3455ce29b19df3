//! A parcel: one message with one or more jobs, and the copies of jobs that it holds.

use bytes::Bytes;

use super::core::Draft;
use super::value::{self, Fields};
use super::{Core, Hop, VERSION, WireError, prescan};
use crate::class::Class;
use crate::id::JobId;
use crate::limits;
use crate::name::QueueName;
use crate::payload::{Codec, Payload};
use crate::time::Timestamp;

/// One copy of a job as it travels. The header and the core are the bytes that came, so that what
/// this build does not know goes on unchanged; cloning copies no arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobCopy {
    header: Bytes,
    core_bytes: Bytes,
    /// What this build understands of header and core.
    pub core: std::sync::Arc<Core>,
    /// What changes from copy to copy.
    pub hop: Hop,
}

impl JobCopy {
    /// A first copy of a job.
    #[must_use]
    pub fn first(core: Core) -> Self {
        let header = header_bytes(&core);
        Self::beside(header, core)
    }

    fn beside(header: Bytes, core: Core) -> Self {
        let mut own = Vec::with_capacity(core.args.len() + 96);
        core.put_own(&mut own);
        Self {
            header,
            core_bytes: own.into(),
            core: std::sync::Arc::new(core),
            hop: Hop::default(),
        }
    }

    /// The job's id.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.core.id
    }

    /// When the copy is due: its hop's time, else the core's not-before, else at once.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        self.hop.due.or(self.core.not_before)
    }

    /// The number of the attempt that running this copy makes, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.hop.attempts.saturating_add(1)
    }

    /// The arguments; `None` when their codec is not known here.
    #[must_use]
    pub fn args(&self) -> Option<Payload> {
        let codec = Codec::try_from(self.core.codec).ok()?;
        Some(Payload {
            codec,
            bytes: self.core.args.clone(),
        })
    }

    /// 8 bytes that tell these arguments from others (FNV-1a), for noticing one id with two
    /// different sets of arguments.
    #[must_use]
    pub fn args_hash(&self) -> u64 {
        self.core.args.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    /// Keys that must be understood here and are not.
    pub fn not_understood(&self) -> impl Iterator<Item = &str> {
        self.core
            .not_understood
            .iter()
            .chain(&self.hop.not_understood)
            .map(String::as_str)
    }

    /// Bytes that the copy takes in a parcel, about.
    #[must_use]
    pub fn len(&self) -> usize {
        self.core_bytes.len() + 64
    }

    /// Never: a copy always has a core.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }
}

fn header_bytes(core: &Core) -> Bytes {
    let mut out = Vec::with_capacity(96);
    value::put_map(&mut out, 2);
    value::put_text(&mut out, "v");
    value::put_uint(&mut out, u64::from(VERSION));
    value::put_text(&mut out, "c");
    core.put_common(&mut out);
    out.into()
}

/// One message: jobs of one queue, class and due second, and of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    jobs: Vec<JobCopy>,
}

/// A job inside a parcel that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadJob {
    /// Its id, where that much could be read.
    pub id: Option<JobId>,
    /// What is wrong.
    pub error: WireError,
    /// Its bytes.
    pub bytes: Bytes,
}

/// What came out of a parcel's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The jobs that can be read, if any.
    pub parcel: Option<Parcel>,
    /// Those that cannot.
    pub bad: Vec<BadJob>,
}

impl Parcel {
    /// A parcel of one job.
    #[must_use]
    pub fn of(job: JobCopy) -> Self {
        Self { jobs: vec![job] }
    }

    /// A parcel of several copies that came out of one parcel, or were built to go into one.
    ///
    /// # Errors
    /// When there are none or more than 1,024, or they differ in queue, class, header or record.
    pub fn several(jobs: Vec<JobCopy>) -> Result<Self, WireError> {
        let Some(first) = jobs.first() else {
            return Err(WireError::Mixed("there are none"));
        };
        if jobs.len() > limits::PARCEL_JOBS {
            return Err(WireError::Mixed("there are more than 1,024"));
        }
        let key = first.core.id.record_at(first.hop.hand);
        for job in &jobs[1..] {
            if job.header != first.header {
                return Err(WireError::Mixed("their headers differ"));
            }
            if job.core.id.record_at(job.hop.hand) != key {
                return Err(WireError::Mixed("their records differ"));
            }
        }
        Ok(Self { jobs })
    }

    /// A first parcel from the cores of its jobs, which must agree in what a header holds.
    ///
    /// # Errors
    /// When there are none or more than 1,024, or they differ in queue, class, time of enqueueing,
    /// producer, mailbox or record.
    pub fn pack(cores: Vec<Core>) -> Result<Self, WireError> {
        let Some(first) = cores.first() else {
            return Err(WireError::Mixed("there are none"));
        };
        let header = header_bytes(first);
        for core in &cores[1..] {
            if header_bytes(core) != header {
                return Err(WireError::Mixed("their headers differ"));
            }
        }
        Self::several(
            cores
                .into_iter()
                .map(|core| JobCopy::beside(header.clone(), core))
                .collect(),
        )
    }

    /// The jobs, at least one.
    #[must_use]
    pub fn jobs(&self) -> &[JobCopy] {
        &self.jobs
    }

    /// The jobs, taken out.
    #[must_use]
    pub fn into_jobs(self) -> Vec<JobCopy> {
        self.jobs
    }

    /// The queue of all its jobs.
    #[must_use]
    pub fn queue(&self) -> &QueueName {
        &self.jobs[0].core.queue
    }

    /// The class of all its jobs.
    #[must_use]
    pub fn class(&self) -> Class {
        self.jobs[0].core.class
    }

    /// When the parcel is due: the earliest due time of its jobs; `None` is at once.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        self.jobs.iter().map(JobCopy::due).min().flatten()
    }

    /// Its bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let jobs: usize = self.jobs.iter().map(JobCopy::len).sum();
        let mut out = Vec::with_capacity(self.jobs[0].header.len() + jobs + 16);
        value::put_array(&mut out, 2);
        out.extend_from_slice(&self.jobs[0].header);
        value::put_array(&mut out, self.jobs.len());
        let mut hop = Vec::with_capacity(64);
        for job in &self.jobs {
            hop.clear();
            job.hop.put(&mut hop);
            let len = u32::try_from(job.core_bytes.len() + hop.len()).unwrap_or(u32::MAX);
            let _ = rmp::encode::write_bin_len(&mut out, len);
            out.extend_from_slice(&job.core_bytes);
            out.extend_from_slice(&hop);
        }
        out
    }

    /// Whether `bytes` begin as those of a parcel do, of whatever version: with a list of two, of which the first is a
    /// map. Only then can there be jobs in them.
    #[must_use]
    pub fn begins(bytes: &[u8]) -> bool {
        let mut rest = bytes;
        rmp::decode::read_array_len(&mut rest).ok() == Some(2) && rmp::decode::read_map_len(&mut rest).is_ok()
    }

    /// Reads a parcel. A job that cannot be read does not spoil its neighbours.
    ///
    /// # Errors
    /// When the parcel as a whole cannot be read: too long, malformed, of a newer version, or
    /// with a bad header.
    pub fn decode(bytes: &Bytes) -> Result<Opened, WireError> {
        if bytes.len() > limits::MESSAGE_BYTES {
            return Err(WireError::TooLong(bytes.len()));
        }
        prescan::whole(bytes)?;
        let shape = || WireError::Field {
            field: String::new(),
            expected: "a list of a header and a list of jobs",
        };
        let mut rest: &[u8] = bytes;
        if rmp::decode::read_array_len(&mut rest).ok() != Some(2) {
            return Err(shape());
        }
        let header_len = prescan::value(rest)?;
        let (header, mut rest) = rest.split_at(header_len);
        let header = bytes.slice_ref(header);
        let common = Common::of(&header)?;
        let count = rmp::decode::read_array_len(&mut rest).map_err(|_| shape())? as usize;
        if count == 0 || count > limits::PARCEL_JOBS {
            return Err(WireError::Field {
                field: String::new(),
                expected: "a list of 1 to 1,024 jobs",
            });
        }
        let mut jobs: Vec<JobCopy> = Vec::new();
        let mut bad = Vec::new();
        for _ in 0..count {
            let end = prescan::value(rest)?;
            let (raw, after) = rest.split_at(end);
            rest = after;
            let mut draft = common.draft.clone();
            match open_job(bytes, &common, raw, &mut draft) {
                Ok((core_bytes, hop)) => match draft.finish() {
                    Ok(core) => {
                        let key = core.id.record_at(hop.hand);
                        let alike = jobs.first().is_none_or(|first: &JobCopy| {
                            first.core.id.record_at(first.hop.hand) == key
                                && first.core.queue == core.queue
                                && first.core.class == core.class
                        });
                        if alike {
                            let core = std::sync::Arc::new(core);
                            jobs.push(JobCopy {
                                header: header.clone(),
                                core_bytes,
                                core,
                                hop,
                            });
                        } else {
                            let error = WireError::Mixed("queue, class or record differ");
                            bad.push(BadJob {
                                id: Some(core.id),
                                error,
                                bytes: bytes.slice_ref(raw),
                            });
                        }
                    }
                    Err(error) => bad.push(BadJob {
                        id: None,
                        error,
                        bytes: bytes.slice_ref(raw),
                    }),
                },
                Err(error) => bad.push(BadJob {
                    id: draft.id(),
                    error,
                    bytes: bytes.slice_ref(raw),
                }),
            }
        }
        let parcel = (!jobs.is_empty()).then_some(Self { jobs });
        Ok(Opened { parcel, bad })
    }
}

/// What the header says of all jobs, read once.
struct Common {
    draft: Draft,
    /// What is wrong with the values, which is then wrong with each job.
    wrong: Option<WireError>,
}

impl Common {
    fn of(header: &Bytes) -> Result<Self, WireError> {
        let (fields, _) = Fields::of(header)?;
        let (mut version, mut values) = (None, None);
        let mut draft = Draft::default();
        for field in fields {
            let (key, value) = field?;
            match key {
                "v" => version = Some(value::uint(key, value)?),
                "c" => values = Some(value),
                _ if key.starts_with(|c: char| c.is_ascii_uppercase()) => draft.must_understand(key),
                _ => {}
            }
        }
        let version = version.ok_or(WireError::Missing("v"))?;
        if version > u64::from(VERSION) {
            return Err(WireError::Newer(version));
        }
        let wrong = values.and_then(|values| draft.read(header, values).err());
        Ok(Self { draft, wrong })
    }
}

fn open_job(source: &Bytes, common: &Common, raw: &[u8], draft: &mut Draft) -> Result<(Bytes, Hop), WireError> {
    let inner = value::bin("job", raw)?;
    if let Some(wrong) = &common.wrong {
        return Err(wrong.clone());
    }
    let core_len = draft.read(source, inner)?;
    let (hop, hop_len) = Hop::read(&inner[core_len..])?;
    if core_len + hop_len != inner.len() {
        return Err(WireError::Trailing(inner.len() - core_len - hop_len));
    }
    Ok((source.slice_ref(&inner[..core_len]), hop))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::TaskName;

    fn core(index: u16) -> Core {
        Core {
            id: JobId::minted(Timestamp::MIN_WIRE, 9, index),
            task: TaskName::new("resize").unwrap(),
            args: Bytes::from_static(b"\x93\x01\x02\x03"),
            codec: 0,
            task_version: 0,
            queue: QueueName::default(),
            class: Class::High,
            enqueued_at: Timestamp::MIN_WIRE,
            not_before: None,
            expires: Some(Timestamp::MAX_WIRE),
            limits: crate::TimeLimits {
                soft_ms: None,
                hard_ms: Some(30_000),
            },
            retry: crate::RetryWish {
                retries: Some(3),
                ..Default::default()
            },
            tags: vec!["blue".into()],
            parent: None,
            root: None,
            producer: Some("test".into()),
            mailbox: None,
            not_understood: vec![],
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut parcel = Parcel::pack(vec![core(0), core(1), core(5)]).unwrap();
        parcel.jobs[1].hop = Hop {
            attempts: 2,
            due: Some(Timestamp::MIN_WIRE),
            parked: Some(super::super::Parked {
                since: Timestamp::MIN_WIRE,
                times: 4,
            }),
            first_error: Some("no".into()),
            expected_version: Some([7; 8]),
            ..Hop::default()
        };
        let opened = Parcel::decode(&parcel.encode().into()).unwrap();
        assert_eq!(opened.parcel, Some(parcel));
        assert_eq!(opened.bad, []);
    }

    #[test]
    fn unknown_fields_travel_on_and_capitals_must_be_understood() {
        let mut out = Vec::new();
        value::put_array(&mut out, 2);
        let mut with_more = header_bytes(&core(0)).to_vec();
        with_more[0] = 0x83;
        value::put_text(&mut with_more, "zz");
        value::put_uint(&mut with_more, 5);
        out.extend_from_slice(&with_more);
        value::put_array(&mut out, 1);
        let mut job = Vec::new();
        core(0).put_own(&mut job);
        job[0] += 2;
        let tail = job.len();
        let mut own = job.split_off(tail);
        value::put_text(&mut own, "new");
        value::put_uint(&mut own, 1);
        value::put_text(&mut own, "Must");
        value::put_uint(&mut own, 1);
        job.extend_from_slice(&own);
        value::put_map(&mut job, 2);
        value::put_text(&mut job, "h");
        value::put_uint(&mut job, 1);
        value::put_text(&mut job, "later");
        value::put_text(&mut job, "x");
        value::put_bin(&mut out, &job);
        let bytes = Bytes::from(out);
        let parcel = Parcel::decode(&bytes).unwrap().parcel.unwrap();
        assert_eq!(parcel.jobs[0].not_understood().collect::<Vec<_>>(), ["Must"]);
        assert_eq!(Bytes::from(parcel.encode()), bytes);
    }

    #[test]
    fn the_header_too_must_be_understood_and_holds_no_key_twice() {
        let bytes = Parcel::pack(vec![core(0)]).unwrap().encode();
        // Behind the list's marker and the header's: one more field.
        let with = |key: &str, value: u64| {
            let mut more = bytes.clone();
            more[1] += 1;
            let mut field = Vec::new();
            value::put_text(&mut field, key);
            value::put_uint(&mut field, value);
            more.splice(2..2, field);
            Parcel::decode(&more.into())
        };
        let parcel = with("Must", 1).unwrap().parcel.unwrap();
        assert_eq!(parcel.jobs[0].not_understood().collect::<Vec<_>>(), ["Must"]);
        assert_eq!(with("v", 1), Err(WireError::Twice("v".into())));
    }

    #[test]
    fn a_bad_job_does_not_spoil_its_neighbour() {
        let good = Parcel::pack(vec![core(0), core(1)]).unwrap();
        let mut bytes = good.encode();
        let at = bytes.windows(6).position(|w| w == b"resize").unwrap();
        bytes[at] = b'R';
        let opened = Parcel::decode(&bytes.into()).unwrap();
        assert_eq!(opened.parcel.unwrap().jobs.len(), 1);
        assert_eq!(opened.bad[0].id, Some(core(0).id));
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_an_error_or_a_parcel_never_a_panic() {
        let bytes = Parcel::pack(vec![core(0), core(1)]).unwrap().encode();
        for end in 0..bytes.len() {
            assert!(Parcel::decode(&Bytes::copy_from_slice(&bytes[..end])).is_err());
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let _ = Parcel::decode(&changed.into());
            }
        }
    }
}
