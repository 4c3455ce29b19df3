//! Big payloads between a worker and a child: in a file that has no name and only a descriptor, so that
//! they are copied once, into it, and read where they are.

use std::fs::File;
use std::io::{Read, Seek, Write};
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

/// The payload in a file that a child made: copied, since even a sealed file may hold pages that are only
/// made when they are read.
pub(crate) fn read(file: OwnedFd, length: u64, most: u64) -> Result<Bytes, FrameError> {
    let (mut file, length) = checked(file, length, most)?;
    // Both sides of a passed descriptor share one position.
    file.rewind()?;
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    Ok(bytes.into())
}

/// The payload in a file that the worker made with [`write`]: it stays where it is.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "a map of a file is sound only when nobody changes the file")]
pub(crate) fn map(file: OwnedFd, length: u64, most: u64) -> Result<Bytes, FrameError> {
    let (file, length) = checked(file, length, most)?;
    if length == 0 {
        return Ok(Bytes::new());
    }
    let mut map = memmap2::MmapOptions::new();
    // SAFETY: the file is memory, sealed against writing and shrinking for good, so its bytes stay the same
    // for as long as they are mapped; the kernel grants the seal only when nobody has the file mapped for
    // writing. Its pages exist: the worker wrote all of them.
    let map = unsafe { map.len(length).populate().map_copy_read_only(&file) };
    Ok(Bytes::from_owner(map?))
}

#[cfg(not(target_os = "linux"))]
pub(crate) use read as map;

/// The file with a length that can be believed.
fn checked(file: OwnedFd, length: u64, most: u64) -> Result<(File, usize), FrameError> {
    if length > most {
        return Err(FrameError::Payload("it is longer than it may be"));
    }
    let file = File::from(file);
    sealed(&file)?;
    if file.metadata()?.len() != length {
        return Err(FrameError::Payload("its file has another length"));
    }
    let length = usize::try_from(length).map_err(|_| FrameError::Payload("it is longer than it may be"))?;
    Ok((file, length))
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
        assert_eq!(map(file(), 1000, 1000).unwrap(), vec![7; 1000]);
        assert!(map(write(&[]).unwrap(), 0, 1000).unwrap().is_empty());
        let refused = |file, length, most| {
            let error = read(file, length, most).unwrap_err().to_string();
            assert_eq!(
                map(write(&[7; 1000]).unwrap(), length, most).is_ok(),
                length == 1000 && most >= 1000
            );
            error
        };
        assert!(refused(file(), 1001, 2000).contains("another length"));
        assert!(refused(file(), 9, 2000).contains("another length"));
        assert!(refused(file(), 1000, 999).contains("longer"));
        let open = File::open("/dev/zero").unwrap();
        assert!(refused(open.into(), 10, 10).contains("file"));
    }
}
