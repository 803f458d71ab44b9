//! Values are compressed with LZ4 on their way to the engine.
//!
//! The first byte says how the rest lies there: as it is, or as one LZ4 block behind the length of the value. Small
//! values, and those that LZ4 makes hardly smaller, are left as they are.
//!
//! An engine compresses blocks of neighbours by itself, and better. This is for values that another adapter encrypts,
//! of which no engine could make less, and for engines that compress nothing.

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use mks_guest_sdk::adapter::{Config, OptionDoc, Refusal};
use mks_guest_sdk::value_adapter::{Row, Secrets, Started, Unreadable, ValueAdapter};

/// First byte: the value follows.
const PLAIN: u8 = 0;
/// First byte: the value's length, four bytes, the least first, and one LZ4 block.
const LZ4: u8 = 1;
/// Bytes before an LZ4 block.
const HEAD_BYTES: usize = 5;
/// Longest value, by the contract. A longer one that is said to lie in a block is a lie of the disk.
const VALUE_BYTES_MAX: usize = 1 << 20;
/// A compressed value must be smaller by this share of it, one in so many, to be worth reading again.
const WORTH: usize = 16;
const FROM_DEFAULT: u32 = 128;

/// See the [crate].
#[derive(Debug)]
pub struct Compress;

/// The hash table of the compressor, which is as large as many values.
#[derive(Default)]
pub struct Table(Option<CompressTable>);

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Table")
    }
}

impl ValueAdapter for Compress {
    const NAME: &'static str = "compress";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const OPTIONS: &'static [OptionDoc] = &[OptionDoc {
        name: "from",
        help: "values below this size are left as they are, a size such as 1 KiB; 128 B by default",
    }];
    const SEES_KEYS: bool = false;
    type Scratch = Table;

    fn start(config: &Config, secrets: &Secrets) -> Result<Started, Refusal> {
        secrets.only(&[])?;
        let from = config.size("from", 0..=u64::from(u32::MAX))?.and_then(|from| u32::try_from(from).ok());
        let settings = from.unwrap_or(FROM_DEFAULT).to_le_bytes().to_vec();
        Ok(Started { settings, form: "lz4/1".into(), random_bytes: 0 })
    }

    fn pack(settings: &[u8], row: Row<'_>, table: &mut Table, out: &mut Vec<u8>) {
        let from = settings.try_into().map_or(FROM_DEFAULT, u32::from_le_bytes);
        let value = row.value;
        if value.len() < from as usize || value.len() > VALUE_BYTES_MAX || !pack_lz4(value, table, out) {
            out.push(PLAIN);
            out.extend_from_slice(value);
        }
    }

    fn unpack(_: &[u8], row: Row<'_>, _: &mut Table, out: &mut Vec<u8>) -> Result<(), Unreadable> {
        match row.value {
            [PLAIN, value @ ..] => out.extend_from_slice(value),
            [LZ4, a, b, c, d, block @ ..] => {
                let bytes = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
                if bytes > VALUE_BYTES_MAX {
                    return Err(Unreadable::Damaged);
                }
                let start = out.len();
                out.resize(start + bytes, 0);
                if decompress_into(block, &mut out[start..]).ok() != Some(bytes) {
                    return Err(Unreadable::Damaged);
                }
            }
            _ => return Err(Unreadable::Damaged),
        }
        Ok(())
    }
}

/// Appends the value as an LZ4 block; false, and nothing appended, where it is hardly smaller.
fn pack_lz4(value: &[u8], table: &mut Table, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    out.push(LZ4);
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    let head_end = out.len();
    out.resize(head_end + get_maximum_output_size(value.len()), 0);
    let table = table.0.get_or_insert_with(CompressTable::small);
    let packed = compress_into_with_table(value, &mut out[head_end..], table);
    match packed {
        Ok(bytes) if HEAD_BYTES + bytes + value.len() / WORTH <= value.len() => {
            out.truncate(head_end + bytes);
            true
        }
        _ => {
            out.truncate(start);
            false
        }
    }
}

mks_guest_sdk::export_value_adapter!(Compress);

#[cfg(test)]
mod tests {
    use super::*;
    use mks_guest_sdk::value_adapter::Opened;
    use proptest::prelude::*;

    fn opened(from: &str) -> Opened<Compress> {
        Opened::start(&[("from", from)], &[]).expect("good options")
    }

    /// Bytes that compress to about a share of them: runs of one byte between bytes of all kinds.
    fn value() -> impl Strategy<Value = Vec<u8>> {
        let run = (any::<u8>(), 1..200_usize).prop_map(|(byte, times)| vec![byte; times]);
        let piece = prop_oneof![run, proptest::collection::vec(any::<u8>(), 0..60)];
        proptest::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked_and_hardly_ever_longer(value in value(), from in 0..2_000_u32) {
            let compress = opened(&from.to_string());
            let packed = compress.pack(b"", &value, b"");
            prop_assert!(packed.len() <= value.len() + 1);
            prop_assert_eq!(compress.unpack(b"", &packed), Ok(value));
        }

        #[test]
        fn other_options_read_the_same(value in value()) {
            for from in ["0", "1 MiB"] {
                prop_assert_eq!(&opened("128").unpack(b"", &opened(from).pack(b"", &value, b"")), &Ok(value.clone()));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = opened("0").unpack(b"", &bytes);
            let _ = opened("0").unpack(b"", &[&[LZ4, bytes.len() as u8, 1, 0, 0], &bytes[..]].concat());
        }

        #[test]
        fn a_block_that_was_cut_is_damaged(value in value(), cut in any::<prop::sample::Index>()) {
            let packed = opened("0").pack(b"", &value, b"");
            prop_assume!(packed[0] == LZ4);
            let cut = cut.index(packed.len());
            prop_assert_eq!(opened("0").unpack(b"", &packed[..cut]), Err(Unreadable::Damaged));
        }
    }

    #[test]
    fn a_value_that_repeats_gets_small_and_a_short_or_random_one_stays() {
        let compress = opened("128");
        assert!(compress.pack(b"", &[7; 10_000], b"").len() < 100);
        assert_eq!(compress.pack(b"", &[7; 127], b"")[0], PLAIN);
        let mut state = 1_u32;
        let random: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(4_096)
        .collect();
        let packed = compress.pack(b"", &random, b"");
        assert_eq!((packed[0], packed.len()), (PLAIN, random.len() + 1));
    }

    #[test]
    fn a_length_that_no_value_has_takes_no_memory() {
        let packed = [&[LZ4][..], &u32::MAX.to_le_bytes(), &[0; 40]].concat();
        assert_eq!(opened("0").unpack(b"", &packed), Err(Unreadable::Damaged));
    }

    #[test]
    fn the_form_does_not_depend_on_the_options() {
        assert_eq!(opened("1").started().form, opened("9 KiB").started().form);
        let refused = Opened::<Compress>::start(&[("from", "lots")], &[]).map(|_| ());
        assert!(matches!(refused, Err(Refusal::BadValue(bad)) if bad.name == "from"));
    }
}
