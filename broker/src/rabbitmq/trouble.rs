//! What RabbitMQ's errors mean, in words, and whether another try may help.

use lapin::ErrorKind;
use lapin::protocol::AMQPErrorKind;

use crate::error::Error;

const ACCESS_REFUSED: u16 = 403;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) text: String,
    /// Whether another try may help.
    pub(super) passes: bool,
    /// Whether only a channel was lost, and the connection is as good as before.
    pub(super) of_channel: bool,
}

impl Trouble {
    pub(super) fn passing(text: String) -> Self {
        Self {
            text,
            passes: true,
            of_channel: false,
        }
    }

    pub(super) fn blocked(why: &str) -> Self {
        Self::passing(format!(
            "RabbitMQ blocks publishers because of its memory or disk alarm ({why})"
        ))
    }

    pub(super) fn of(error: &lapin::Error) -> Self {
        let told = match error.kind() {
            ErrorKind::ProtocolError(told) => told,
            ErrorKind::IOError(error) => return Self::passing(error.to_string()),
            _ => return Self::passing(error.to_string()),
        };
        let (code, text) = (told.get_id(), told.get_message().as_str());
        let (text, passes) = match code {
            ACCESS_REFUSED if text.contains("Login was refused") => {
                ("it refuses the user or password in the URL".to_owned(), false)
            }
            NOT_ALLOWED => (format!("the vhost in the URL cannot be used: {}", plain(text)), false),
            ACCESS_REFUSED => (
                format!(
                    "the user in the URL needs the permissions configure, write and read: {}",
                    plain(text)
                ),
                false,
            ),
            PRECONDITION_FAILED => match changed(text) {
                Some(explained) => (explained, false),
                None => (plain(text).to_owned(), true),
            },
            _ => (text.to_owned(), true),
        };
        Self {
            text,
            passes,
            of_channel: matches!(told.kind(), AMQPErrorKind::Soft(_)),
        }
    }

    /// In the words of the door.
    pub(super) fn told(&self, place: &str) -> Error {
        if self.passes {
            Error::unreachable(place, self.text.clone())
        } else {
            Error::unusable(place, self.text.clone())
        }
    }

    /// What was asked for is not there.
    pub(super) fn is_not_found(&self) -> bool {
        self.of_channel && self.text.starts_with("NOT_FOUND")
    }

    /// Another connection has it for itself.
    pub(super) fn is_locked(&self) -> bool {
        self.of_channel && self.text.starts_with("RESOURCE_LOCKED")
    }

    /// A channel that held a delivery for too long.
    pub(super) fn is_consumer_timeout(&self) -> bool {
        self.text.contains("delivery acknowledgement on channel") && self.text.contains("timed out")
    }
}

/// RabbitMQ's text without its code's name.
fn plain(text: &str) -> &str {
    text.split_once(" - ").map_or(text, |(_, rest)| rest)
}

/// Explains that something is declared with another argument than it has. RabbitMQ says:
/// `inequivalent arg 'A' for queue 'Q' in vhost 'V': received the value 'X' of type 'T' but current
/// is the value 'Y' of type 'T'`, or `received none but current is …`, cut after 255 bytes.
fn changed(text: &str) -> Option<String> {
    let rest = text.split_once("inequivalent arg '")?.1;
    let (argument, rest) = rest.split_once("' for ")?;
    let (kind, rest) = rest.split_once(" '")?;
    let (name, rest) = rest.split_once('\'')?;
    let (received, current) = rest.split_once("received ")?.1.split_once(" but current is ").unzip();
    let value = |told: Option<&str>| match told.and_then(|t| t.split('\'').nth(1)) {
        Some(value) => format!("{value:?}"),
        None => "none".to_owned(),
    };
    let (wanted, has) = (value(received), value(current));
    Some(format!(
        "{kind} {name:?} exists with {argument} = {has}, and this build declares {wanted}: \
         delete the {kind} when it is empty, or use another namespace (?ns=)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_argument_is_explained() {
        let told = "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'mh.a.1.q.mail.low' in vhost \
                    '/': received the value '100' of type 'signedint' but current is the value '5' of type 'signedint'";
        assert_eq!(
            changed(told).unwrap(),
            "queue \"mh.a.1.q.mail.low\" exists with x-delivery-limit = \"5\", and this build declares \"100\": delete \
             the queue when it is empty, or use another namespace (?ns=)"
        );
        let told = "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received none but \
                    current is the value '5' of type 'long'";
        assert!(
            changed(told)
                .unwrap()
                .contains("x-max-length = \"5\", and this build declares none")
        );
        assert!(
            changed("PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': rec").is_none()
        );
        assert!(changed("PRECONDITION_FAILED - unknown delivery tag 7").is_none());
    }
}
