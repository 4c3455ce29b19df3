//! Bytes that are carried as bytes, and not copied when they are decoded.

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A byte string in arguments or a result: an image, a file, an encoded table.
///
/// `Vec<u8>` would travel as a list of numbers, up to two bytes for each, and be read one by one. A `Blob`
/// travels as it is, and is decoded without a copy: it shares the memory of the payload that it came in,
/// which lives as long as the `Blob`. In JSON it is an array of numbers.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Blob(Bytes);

impl Blob {
    /// The bytes themselves, without a copy.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl Deref for Blob {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<T: Into<Bytes>> From<T> for Blob {
    fn from(bytes: T) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({})", crate::words::bytes(self.0.len() as u64))
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

thread_local! {
    /// The payload that this thread decodes. Serde hands a type the bytes only by reference: to keep them
    /// without a copy, it must know who owns them.
    static DECODING: RefCell<Option<Bytes>> = const { RefCell::new(None) };
}

/// Calls `decode`; every [`Blob`] in it shares the memory of `payload`.
pub(super) fn sharing<T>(payload: &Bytes, decode: impl FnOnce() -> T) -> T {
    /// Puts back what an outer call decodes, also after a panic.
    struct Outer(Option<Bytes>);
    impl Drop for Outer {
        fn drop(&mut self) {
            DECODING.set(self.0.take());
        }
    }
    let _outer = Outer(DECODING.replace(Some(payload.clone())));
    decode()
}

/// A part of what is decoded, or a copy of what is no part of it.
fn part(bytes: &[u8]) -> Bytes {
    DECODING.with_borrow(|payload| {
        let inside = |payload: &&Bytes| payload.as_ptr_range().contains(&bytes.as_ptr()) && !bytes.is_empty();
        match payload.as_ref().filter(inside) {
            Some(payload) => payload.slice_ref(bytes),
            None => Bytes::copy_from_slice(bytes),
        }
    })
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Blobs;
        impl<'de> Visitor<'de> for Blobs {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<Blob, E> {
                Ok(Blob(part(bytes)))
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(Bytes::copy_from_slice(bytes)))
            }
            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<Blob, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = numbers.next_element()? {
                    bytes.push(byte);
                }
                Ok(Blob(bytes.into()))
            }
        }
        deserializer.deserialize_byte_buf(Blobs)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Payload;
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Image {
        name: String,
        pixels: Blob,
        rest: Option<Blob>,
    }

    fn image() -> Image {
        Image {
            name: "a".into(),
            pixels: vec![7; 1000].into(),
            rest: Some(Blob::default()),
        }
    }

    #[test]
    fn a_blob_travels_as_it_is_and_is_decoded_without_a_copy() {
        let payload = Payload::encode(&image()).unwrap();
        assert!(payload.bytes.len() < 1050, "{}", payload.bytes.len());
        let decoded: Image = payload.decode().unwrap();
        assert_eq!((&decoded.name[..], &decoded.pixels), ("a", &image().pixels));
        assert!(payload.bytes.as_ptr_range().contains(&decoded.pixels.as_ptr()));
        drop(payload);
        assert_eq!(decoded.pixels, image().pixels);
        assert!(decoded.rest.is_some_and(|rest| rest.is_empty()));
    }

    #[test]
    fn what_is_not_decoded_from_a_payload_is_copied() {
        let bytes = rmp_serde::to_vec_named(&image()).unwrap();
        let decoded: Image = rmp_serde::from_slice(&bytes).unwrap();
        assert_eq!(decoded.pixels, image().pixels);
        let json = Payload::json(r#"{"name": "a", "pixels": [1, 2, 255], "rest": null}"#).unwrap();
        assert_eq!(&*json.decode::<Image>().unwrap().pixels, [1, 2, 255]);
        assert!(Payload::json("[256]").unwrap().decode::<Blob>().is_err());
    }
}
