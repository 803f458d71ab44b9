//! One batch as its coordinator sees it: independent writes whose replies are gathered.

use crate::request::{Answer, Reply};
use alloc::vec::Vec;

/// A batch under way.
#[derive(Clone, Debug)]
pub struct BatchOp {
    replies: Vec<Option<Reply>>,
    open: usize,
}

impl BatchOp {
    /// A batch of `items` writes.
    #[must_use]
    pub fn new(items: usize) -> Self {
        Self { replies: alloc::vec![None; items], open: items }
    }

    /// Takes in the reply of one item. With the last one comes the reply of the whole.
    pub fn replied(&mut self, item: u32, reply: Reply) -> Option<Reply> {
        let slot = self.replies.get_mut(item as usize)?;
        if slot.is_none() {
            *slot = Some(reply);
            self.open -= 1;
        }
        if self.open > 0 {
            return None;
        }
        let replies = core::mem::take(&mut self.replies).into_iter().flatten().collect();
        Some(Ok(Answer::Batch { replies }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::OpError;
    use crate::time::Hlc;

    #[test]
    fn replies_stand_in_the_order_of_the_items() {
        let mut batch = BatchOp::new(3);
        let good = |n| Ok(Answer::Written { written: Hlc(n), acks: 2, hints: 0, context: None });
        assert_eq!(batch.replied(2, good(2)), None);
        assert_eq!(batch.replied(0, Err(OpError::NoOwner)), None);
        assert_eq!(batch.replied(0, good(9)), None, "an item is answered once");
        let replies = vec![Err(OpError::NoOwner), good(1), good(2)];
        assert_eq!(batch.replied(1, good(1)), Some(Ok(Answer::Batch { replies })));
    }
}
