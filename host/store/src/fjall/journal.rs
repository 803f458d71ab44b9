//! Looks at fjall's journals before fjall does.
//!
//! fjall 3.1 refuses a journal whose last batch was torn in its middle, which a power cut can do to a batch that spans
//! several pages, and silently cuts one off at the first entry that it can't decode, which a flipped bit can do to
//! batches that were acknowledged. The two are told apart here: every journal but the newest was synced before the
//! next one was made, so damage in it is damage; the newest one ends where its valid batches end, and whether synced
//! data lay behind is for the floor to say.
//!
//! A batch is `1, items: u32, seqno: u64`, then per item `2, type: u8, compression: u8, keyspace: u64, key length: u16,
//! value length: u32, stored length: u32, key, stored value` or `4, keyspace: u64`, then `3, xxh3 of all items: u64,
//! "FJL", 3`; integers are little-endian. A journal is laid out in advance: zeros follow its end.

use mks_logic::port::StoreError;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: [u8; 4] = *b"FJL\x03";
const READ_BYTES: usize = 1 << 20;

/// Checks the journals in `directory` and cuts off what a crash left unfinished at the end of the newest.
///
/// # Errors
/// [`StoreError::Corrupt`] when an older one is damaged; [`StoreError::Io`] when they can't be read.
pub(super) fn check(directory: &Path) -> Result<(), StoreError> {
    let io = |e: io::Error| StoreError::Io(format!("the journals in {}: {e}", directory.display()));
    let mut journals = list(directory).map_err(io)?;
    let newest = journals.pop();
    for (_, path) in &journals {
        if let Some(at) = first_damage(path).map_err(io)? {
            return Err(StoreError::Corrupt(format!("{} makes no sense from byte {at} on", path.display())));
        }
    }
    let Some((_, path)) = newest else { return Ok(()) };
    if let Some(end) = first_damage(&path).map_err(io)? {
        tracing::warn!("{} ends in an unfinished batch at byte {end}: cut off", path.display());
        let file = OpenOptions::new().write(true).open(&path).map_err(io)?;
        file.set_len(end).and_then(|()| file.sync_all()).map_err(io)?;
    }
    Ok(())
}

/// The journals, oldest first. Other names are left to fjall.
pub(super) fn list(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let (Some(number), Some("jnl")) = (number, path.extension().and_then(|extension| extension.to_str())) {
            journals.push((number, path));
        }
    }
    journals.sort_unstable();
    Ok(journals)
}

/// Where the whole batches of a journal end, unless only zeros follow.
fn first_damage(path: &Path) -> io::Result<Option<u64>> {
    let mut file = BufReader::with_capacity(READ_BYTES, File::open(path)?);
    let mut end = 0;
    while let Some(bytes) = batch(&mut file)? {
        end += bytes;
    }
    file.seek(SeekFrom::Start(end))?;
    loop {
        let rest = file.fill_buf()?;
        if rest.iter().any(|&byte| byte != 0) {
            return Ok(Some(end));
        }
        if rest.is_empty() {
            return Ok(None);
        }
        let read = rest.len();
        file.consume(read);
    }
}

/// Reads one batch: its length, or `None` when it is not a whole and valid one.
fn batch(source: &mut impl Read) -> io::Result<Option<u64>> {
    let Some([START, header @ ..]) = take::<13>(source)? else { return Ok(None) };
    let [a, b, c, d, ..] = header;
    let mut length = 13;
    let mut hash = Xxh3::new();
    for _ in 0..u32::from_le_bytes([a, b, c, d]) {
        match item(source, &mut hash)? {
            Some(bytes) => length += bytes,
            None => return Ok(None),
        }
    }
    let Some([END, tail @ ..]) = take::<13>(source)? else { return Ok(None) };
    let whole = tail[..8] == hash.digest().to_le_bytes() && tail[8..] == TRAILER;
    Ok(whole.then_some(length + 13))
}

fn item(source: &mut impl Read, hash: &mut Xxh3) -> io::Result<Option<u64>> {
    let Some(start @ [kind, ..]) = take::<9>(source)? else { return Ok(None) };
    hash.update(&start);
    match kind {
        CLEAR => Ok(Some(9)),
        ITEM => {
            let Some(sizes) = take::<12>(source)? else { return Ok(None) };
            hash.update(&sizes);
            let [_, _, k0, k1, _, _, _, _, s0, s1, s2, s3] = sizes;
            let bytes = u64::from(u16::from_le_bytes([k0, k1])) + u64::from(u32::from_le_bytes([s0, s1, s2, s3]));
            Ok(feed(source, hash, bytes)?.then_some(21 + bytes))
        }
        _ => Ok(None),
    }
}

/// Hashes the next `bytes` bytes without holding them; false when the journal ends before.
fn feed(source: &mut impl Read, hash: &mut Xxh3, mut bytes: u64) -> io::Result<bool> {
    let mut piece = [0; 4096];
    while bytes > 0 {
        let wanted = piece.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
        match source.read(&mut piece[..wanted])? {
            0 => return Ok(false),
            read => {
                hash.update(&piece[..read]);
                bytes -= read as u64;
            }
        }
    }
    Ok(true)
}

/// The next `N` bytes, or `None` at the end.
fn take<const N: usize>(source: &mut impl Read) -> io::Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    match source.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e),
    }
}
