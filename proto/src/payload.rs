//! Opaque values: the arguments and the result of a job.

mod blob;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use self::blob::Blob;
use crate::wire::prescan;

/// How a payload is encoded (`ct` on the wire).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(try_from = "u8", into = "u8")]
pub enum Codec {
    /// MessagePack; structs as maps with their field names.
    #[default]
    MessagePack,
    /// JSON text, kept byte for byte.
    Json,
}

impl Codec {
    /// Its number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::MessagePack => 0,
            Self::Json => 1,
        }
    }
}

impl From<Codec> for u8 {
    fn from(codec: Codec) -> Self {
        codec.number()
    }
}

impl TryFrom<u8> for Codec {
    type Error = PayloadError;
    fn try_from(number: u8) -> Result<Self, PayloadError> {
        match number {
            0 => Ok(Self::MessagePack),
            1 => Ok(Self::Json),
            other => Err(PayloadError::UnknownCodec(other)),
        }
    }
}

/// A value that could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// The value cannot be encoded, by its own `Serialize`.
    #[error("the value cannot be encoded: {0}")]
    Encode(#[source] rmp_serde::encode::Error),
    /// The bytes are not a MessagePack value of the type asked for.
    #[error("the bytes are not a MessagePack value of this type: {0}")]
    MessagePack(#[source] rmp_serde::decode::Error),
    /// The bytes are not a JSON value of the type asked for.
    #[error("the bytes are not a JSON value of this type: {0}")]
    Json(#[source] serde_json::Error),
    /// The bytes are no well-formed MessagePack, or nest too deep.
    #[error("the bytes cannot be read: {0}")]
    Malformed(#[from] crate::wire::WireError),
    /// The codec's number is not known here.
    #[error("codec {0} is not known here")]
    UnknownCodec(u8),
}

/// An encoded value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// How it is encoded.
    #[serde(rename = "c", default)]
    pub codec: Codec,
    /// The encoded value.
    #[serde(rename = "b")]
    pub bytes: Bytes,
}

impl Payload {
    /// Encodes `value` as MessagePack.
    ///
    /// # Errors
    /// When the value's `Serialize` fails.
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, PayloadError> {
        let bytes = rmp_serde::to_vec_named(value).map_err(PayloadError::Encode)?;
        Ok(Self {
            codec: Codec::MessagePack,
            bytes: bytes.into(),
        })
    }

    /// Takes JSON text as it is, after checking that it is one JSON value.
    ///
    /// # Errors
    /// When `text` is not one JSON value, or nests deeper than [`crate::limits::DEPTH`].
    pub fn json(text: impl Into<Bytes>) -> Result<Self, PayloadError> {
        let bytes = text.into();
        serde_json::from_slice::<&serde_json::value::RawValue>(&bytes).map_err(PayloadError::Json)?;
        if depth(&bytes) > crate::limits::DEPTH {
            return Err(crate::wire::WireError::TooDeep.into());
        }
        Ok(Self {
            codec: Codec::Json,
            bytes,
        })
    }

    /// Whether a record holds it as a result; else it lies beside the record.
    #[must_use]
    pub fn is_inline(&self) -> bool {
        self.bytes.len() <= crate::limits::INLINE_BYTES
    }

    /// Decodes into `T`, whichever codec was used. MessagePack is scanned before it is decoded,
    /// since the decoder's own depth limit can be bypassed.
    ///
    /// # Errors
    /// When the bytes are malformed, nest deeper than [`crate::limits::DEPTH`], or are not a `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, PayloadError> {
        match self.codec {
            Codec::MessagePack => {
                prescan::whole(&self.bytes)?;
                blob::sharing(&self.bytes, || rmp_serde::from_slice(&self.bytes)).map_err(PayloadError::MessagePack)
            }
            Codec::Json => serde_json::from_slice(&self.bytes).map_err(PayloadError::Json),
        }
    }

    /// The value as JSON text: JSON as it is, MessagePack translated (binary as an array of
    /// numbers, non-text map keys as text).
    ///
    /// # Errors
    /// When the bytes are malformed, or hold what JSON cannot say.
    pub fn to_json(&self) -> Result<String, PayloadError> {
        match self.codec {
            Codec::Json => Ok(String::from_utf8_lossy(&self.bytes).into_owned()),
            Codec::MessagePack => {
                let value: serde_json::Value = self.decode()?;
                serde_json::to_string(&value).map_err(PayloadError::Json)
            }
        }
    }
}

/// How deep a well-formed JSON text nests.
fn depth(json: &[u8]) -> usize {
    let (mut deepest, mut depth) = (0usize, 0usize);
    let (mut text, mut escaped) = (false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'[' | b'{' if !text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_nests_no_deeper_than_the_limit() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Payload::json(nested(crate::limits::DEPTH)).is_ok());
        let error = Payload::json(nested(crate::limits::DEPTH + 1)).unwrap_err();
        assert!(error.to_string().contains("deeper than 64"), "{error}");
        let text = serde_json::to_string(&format!("\"\\{}", "[".repeat(100))).unwrap();
        assert!(Payload::json(text).is_ok(), "brackets in text do not nest");
    }

    #[test]
    fn both_codecs_decode_to_the_same_value_and_json_stays_byte_for_byte() {
        let packed = Payload::encode(&(1u8, "two")).unwrap();
        let json = Payload::json(r#"[1, "two"]"#).unwrap();
        assert_eq!(
            packed.decode::<(u8, String)>().unwrap(),
            json.decode::<(u8, String)>().unwrap()
        );
        assert_eq!(packed.to_json().unwrap(), r#"[1,"two"]"#);
        let big = "123456789012345678901234567890.5";
        assert_eq!(Payload::json(big).unwrap().to_json().unwrap(), big);
        assert!(Payload::json("{").is_err());
        assert!(Payload::json("1 2").is_err());
    }

    #[test]
    fn a_deep_value_is_refused_before_any_decoder_sees_it() {
        let mut bytes = vec![0x91; 100_000];
        bytes.push(0xc0);
        let deep = Payload {
            codec: Codec::MessagePack,
            bytes: bytes.into(),
        };
        assert!(matches!(
            deep.decode::<serde_json::Value>(),
            Err(PayloadError::Malformed(_))
        ));
    }
}
