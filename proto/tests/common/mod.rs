//! MessagePack written by hand, as a producer in another language would, and as it should not.
#![allow(dead_code)]

use rmp::encode as put;

/// One value.
#[derive(Clone, Debug)]
pub enum V {
    Nil,
    Bool(bool),
    U(u64),
    I(i64),
    F(f64),
    S(&'static str),
    Bin(Vec<u8>),
    Arr(Vec<V>),
    Map(Vec<(&'static str, V)>),
    /// Bytes as they are.
    Raw(Vec<u8>),
}

impl V {
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Nil => put::write_nil(out).unwrap(),
            Self::Bool(b) => put::write_bool(out, *b).unwrap(),
            Self::U(n) => drop(put::write_uint(out, *n).unwrap()),
            Self::I(n) => drop(put::write_sint(out, *n).unwrap()),
            Self::F(n) => put::write_f64(out, *n).unwrap(),
            Self::S(s) => put::write_str(out, s).unwrap(),
            Self::Bin(b) => put::write_bin(out, b).unwrap(),
            Self::Arr(items) => {
                put::write_array_len(out, u32::try_from(items.len()).unwrap()).unwrap();
                items.iter().for_each(|item| item.put(out));
            }
            Self::Map(fields) => {
                put::write_map_len(out, u32::try_from(fields.len()).unwrap()).unwrap();
                for (key, value) in fields {
                    put::write_str(out, key).unwrap();
                    value.put(out);
                }
            }
            Self::Raw(bytes) => out.extend_from_slice(bytes),
        }
    }
}

/// A map that tests take apart.
pub type Fields = Vec<(&'static str, V)>;

/// The same fields with `key` set to `value`, or added at the end.
pub fn with(fields: &Fields, key: &'static str, value: V) -> Fields {
    let mut fields = fields.clone();
    match fields.iter_mut().find(|(k, _)| *k == key) {
        Some(place) => place.1 = value,
        None => fields.push((key, value)),
    }
    fields
}

/// The same fields without `key`.
pub fn without(fields: &Fields, key: &str) -> Fields {
    fields.iter().filter(|(k, _)| *k != key).cloned().collect()
}

/// A job: core and hop in one `bin`.
pub fn job(core: &Fields, hop: &Fields) -> V {
    let mut bytes = V::Map(core.clone()).bytes();
    bytes.extend(V::Map(hop.clone()).bytes());
    V::Bin(bytes)
}

/// A parcel from its header's fields and its jobs.
pub fn parcel(header: &Fields, jobs: Vec<V>) -> Vec<u8> {
    V::Arr(vec![V::Map(header.clone()), V::Arr(jobs)]).bytes()
}

pub const EA: u64 = 1_790_000_000_000_000;

pub fn common() -> Fields {
    vec![("q", V::S("default")), ("p", V::U(1)), ("ea", V::U(EA))]
}

pub fn header() -> Fields {
    vec![("v", V::U(1)), ("c", V::Map(common()))]
}

/// The id of job `index` of the parcel that the tests use.
pub fn id(index: u16) -> millhand_proto::JobId {
    let at = millhand_proto::Timestamp::from_micros(i64::try_from(EA).unwrap());
    millhand_proto::JobId::minted(at, 0x0123_4567_89ab_cdef, index)
}

pub fn core(index: u16) -> Fields {
    vec![
        ("i", V::Bin(id(index).as_bytes().to_vec())),
        ("t", V::S("resize")),
        ("a", V::Bin(vec![0x82, 0xa1, b'w', 0x64, 0xa1, b'h', 0x32])),
    ]
}
