//! Big payloads between a worker and a child: in a file that has no name and only a descriptor, so that
//! they are copied once, into it, and read where they are.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use bytes::Bytes;

use super::frames::FrameError;

/// A new file with these bytes that nobody can change any more.
#[cfg(target_os = "linux")]
pub(crate) fn write(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let file = memfd_create("millhand", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(file);
    file.write_all(bytes)?;
    fcntl_add_seals(
        &file,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
    )?;
    Ok(file.into())
}

/// A new file with these bytes that has no name any more.
#[cfg(not(target_os = "linux"))]
pub(crate) fn write(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let path = std::env::temp_dir().join(format!("millhand-{}", uuid::Uuid::new_v4()));
    let mut options = File::options();
    let mut file = options.read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    file.write_all(bytes)?;
    Ok(file.into())
}

/// The payload in a file that somebody else made.
pub(crate) fn read(file: OwnedFd, length: u64, most: u64) -> Result<Bytes, FrameError> {
    if length > most {
        return Err(FrameError::Payload("it is longer than it may be"));
    }
    let file = File::from(file);
    sealed(&file)?;
    if file.metadata()?.len() < length {
        return Err(FrameError::Payload("its file is too short"));
    }
    let length = usize::try_from(length).map_err(|_| FrameError::Payload("it is longer than it may be"))?;
    Ok(contents(&file, length)?)
}

/// The first bytes of the file, which nobody can change: they stay where they are.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "a map of a file is sound only when nobody changes the file")]
fn contents(file: &File, length: usize) -> std::io::Result<Bytes> {
    if length == 0 {
        return Ok(Bytes::new());
    }
    let mut map = memmap2::MmapOptions::new();
    // SAFETY: the file is memory, sealed against writing and shrinking for good: its bytes stay the same,
    // and reading them cannot fail, for as long as they are mapped. The kernel grants the seal only when
    // nobody has the file mapped for writing.
    let map = unsafe { map.len(length).populate().map_copy_read_only(file)? };
    Ok(Bytes::from_owner(map))
}

#[cfg(not(target_os = "linux"))]
fn contents(mut file: &File, length: usize) -> std::io::Result<Bytes> {
    use std::io::{Read, Seek};
    // Both sides of a passed descriptor share one position.
    file.rewind()?;
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    Ok(bytes.into())
}

/// Only memory can be sealed: what else could be passed (a pipe, a device, a file on a dead network
/// disk) might never end, or never answer.
#[cfg(target_os = "linux")]
fn sealed(file: &File) -> Result<(), FrameError> {
    use rustix::fs::{SealFlags, fcntl_get_seals};
    let needed = SealFlags::SHRINK | SealFlags::WRITE;
    match fcntl_get_seals(file) {
        Ok(seals) if seals.contains(needed) => Ok(()),
        _ => Err(FrameError::Payload("its file is not sealed against change")),
    }
}

#[cfg(not(target_os = "linux"))]
fn sealed(file: &File) -> Result<(), FrameError> {
    if file.metadata()?.is_file() {
        Ok(())
    } else {
        Err(FrameError::Payload("it is no file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else_is_taken() {
        let file = || write(&[7; 1000]).unwrap();
        assert_eq!(read(file(), 1000, 1000).unwrap(), vec![7; 1000]);
        let refused = |file, length, most| read(file, length, most).unwrap_err().to_string();
        assert!(refused(file(), 1001, 2000).contains("too short"));
        assert!(refused(file(), 1000, 999).contains("longer"));
        let open = File::open("/dev/zero").unwrap();
        assert!(refused(open.into(), 10, 10).contains("file"));
    }
}
