//! The shopping cart of the Dynamo paper: siblings stay stored, a reader gets all of them merged, and the reader's next
//! write replaces them.
//!
//! A cart is text with a line for each item, `quantity item`, such as `2 milk`. The merged cart has each item of every
//! version once, with its largest quantity, in the order of the items. No added item is ever lost; a removed one can
//! come back when the removal met a concurrent change, as in the paper. Values that are no carts are not merged.

use mks_guest_sdk::Random;
use mks_guest_sdk::values::{Moment, Outcome, Siblings, ValueResolver};
use std::collections::BTreeMap;

/// See the [crate].
#[derive(Debug)]
pub struct CartMerge;

impl ValueResolver for CartMerge {
    const NAME: &'static str = "cart-merge";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const WHEN: Moment = Moment::AtRead;

    fn by_value(siblings: &Siblings<'_>) -> Outcome {
        let values: Vec<Vec<u8>> = (0..siblings.len()).map(|row| siblings.value(row)).collect();
        let mut cart = BTreeMap::new();
        for value in &values {
            if add(&mut cart, value).is_none() {
                return Outcome::KeepAll;
            }
        }
        let lines = cart.iter().map(|(item, quantity)| format!("{quantity} {item}\n"));
        Outcome::Merged(lines.collect::<String>().into_bytes())
    }

    fn sample(seed: u64) -> Option<Vec<u8>> {
        let mut random = Random::new(seed);
        let lines = (0..random.below(4)).filter_map(|_| {
            let item = random.pick(&["milk", "bread", "red wine", "tea"]).copied()?;
            Some(format!("{} {item}\n", random.below(20)))
        });
        Some(lines.collect::<String>().into_bytes())
    }
}

/// Adds a cart to another one; `None` when it is none.
fn add<'a>(cart: &mut BTreeMap<&'a str, u64>, value: &'a [u8]) -> Option<()> {
    for line in core::str::from_utf8(value).ok()?.lines().filter(|line| !line.trim().is_empty()) {
        let (quantity, item) = line.trim().split_once(' ')?;
        let quantity: u64 = quantity.parse().ok()?;
        let held = cart.entry(item.trim_start()).or_default();
        *held = quantity.max(*held);
    }
    Some(())
}

mks_guest_sdk::export_value_resolver!(CartMerge);

#[cfg(test)]
mod tests {
    use super::CartMerge;
    use mks_guest_sdk::resolver::Sibling;
    use mks_guest_sdk::testing::assert_value_resolver;
    use mks_guest_sdk::values::{Outcome, settle};

    fn merged(values: &[&str]) -> Outcome {
        let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
        settle::<CartMerge>(b"cart", &vec![Sibling::default(); values.len()], &values)
    }

    #[test]
    fn every_item_is_there_once_with_its_largest_quantity() {
        let cart = merged(&["2 milk\n1 bread", "3 milk\n1 red wine\n", ""]);
        assert_eq!(cart, Outcome::Merged(b"1 bread\n3 milk\n1 red wine\n".to_vec()));
    }

    #[test]
    fn what_is_no_cart_is_not_merged() {
        for value in ["milk", "two milk", "-1 milk"] {
            assert_eq!(merged(&["1 milk", value]), Outcome::KeepAll, "{value}");
        }
        let no_text = settle::<CartMerge>(b"cart", &[Sibling::default(); 2], &[b"1 milk", b"\xFF"]);
        assert_eq!(no_text, Outcome::KeepAll);
    }

    #[test]
    fn it_keeps_the_laws() {
        assert_value_resolver::<CartMerge>();
    }
}
