//! The allocator of a plugin: memory is handed out front to back and taken back all at once.
//!
//! A call into a plugin allocates its arguments, its answer and little else, and drops all of it at the end. So the
//! arena counts what is alive and starts again at the front when nothing is. A fresh instance never has to ask the
//! host for memory before it has used up [`FRONT_BYTES`], which makes short calls two to three times as fast as the
//! allocator of Rust's standard library does (that one grows the memory first).
//!
//! What lives from call to call (a `static` cache, say) keeps the arena from starting again; a plugin that needs that
//! exports itself without this allocator.

use core::alloc::Layout;

/// Bytes that are there from the start.
pub const FRONT_BYTES: usize = 256 << 10;

/// Addresses that are handed out front to back.
#[derive(Debug)]
pub struct Region {
    start: usize,
    next: usize,
    end: usize,
}

impl Region {
    /// All of `start..end` is free.
    #[must_use]
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, next: start, end }
    }

    /// The address of the next free place for `layout`, or how many bytes are missing.
    ///
    /// # Errors
    /// The number of bytes by which `layout` goes beyond the end.
    #[inline]
    pub fn allocate(&mut self, layout: Layout) -> Result<usize, usize> {
        let address = self.next.checked_next_multiple_of(layout.align()).ok_or(usize::MAX)?;
        let next = address.checked_add(layout.size()).ok_or(usize::MAX)?;
        if next > self.end {
            return Err(next - self.end);
        }
        self.next = next;
        Ok(address)
    }

    /// Makes the last thing that was handed out longer or shorter. False when `address` is not the last one, or when
    /// there is no room.
    #[inline]
    pub fn resize_last(&mut self, address: usize, old_size: usize, new_size: usize) -> bool {
        let is_last = address >= self.start && address + old_size == self.next;
        let fits = new_size <= self.end.saturating_sub(address);
        if is_last && fits {
            self.next = address + new_size;
        }
        is_last && fits
    }

    /// Everything is free again.
    #[inline]
    pub fn reset(&mut self) {
        self.next = self.start;
    }
}

#[cfg(target_arch = "wasm32")]
pub use wasm::Arena;

#[cfg(target_arch = "wasm32")]
mod wasm {
    use super::{FRONT_BYTES, Region};
    use core::alloc::{GlobalAlloc, Layout};
    use core::arch::wasm32::{memory_grow, memory_size};
    use core::cell::UnsafeCell;

    const PAGE_BYTES: usize = 64 << 10;

    struct State {
        front: Region,
        /// Grown from the host when the front is used up. One piece, because nobody else grows the memory.
        back: Region,
        /// Allocations that have not been given back.
        alive: usize,
    }

    /// See the [module](super).
    pub struct Arena {
        front: UnsafeCell<[u64; FRONT_BYTES / 8]>,
        state: UnsafeCell<State>,
    }

    // SAFETY: plugins are built without threads, and the allocator never calls back into itself.
    unsafe impl Sync for Arena {}

    impl Arena {
        /// An empty arena.
        pub const fn new() -> Self {
            Self {
                front: UnsafeCell::new([0; FRONT_BYTES / 8]),
                state: UnsafeCell::new(State { front: Region::new(0, 0), back: Region::new(0, 0), alive: 0 }),
            }
        }

        #[allow(clippy::mut_from_ref)]
        fn state(&self) -> &mut State {
            // SAFETY: single-threaded, and every caller drops the reference before it returns.
            let state = unsafe { &mut *self.state.get() };
            if state.front.end == 0 {
                let start = self.front.get() as usize;
                state.front = Region::new(start, start + FRONT_BYTES);
            }
            state
        }
    }

    impl Default for Arena {
        fn default() -> Self {
            Self::new()
        }
    }

    impl core::fmt::Debug for Arena {
        fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            f.write_str("Arena")
        }
    }

    impl State {
        fn allocate(&mut self, layout: Layout) -> Option<usize> {
            if let Ok(address) = self.front.allocate(layout) {
                return Some(address);
            }
            let missing = match self.back.allocate(layout) {
                Ok(address) => return Some(address),
                Err(missing) => missing,
            };
            // Alignment can push the first piece of a new region further, so one alignment is added.
            let pages = missing.checked_add(layout.align())?.div_ceil(PAGE_BYTES);
            let old_end = memory_size(0) * PAGE_BYTES;
            if memory_grow(0, pages) == usize::MAX {
                return None;
            }
            if self.back.end == 0 {
                self.back = Region::new(old_end, old_end);
            }
            self.back.end += pages * PAGE_BYTES;
            self.back.allocate(layout).ok()
        }
    }

    // SAFETY: every piece lies within memory that belongs to the arena, is aligned, and overlaps no other living piece:
    // regions only go forward until nothing is alive.
    unsafe impl GlobalAlloc for Arena {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            let state = self.state();
            let Some(address) = state.allocate(layout) else { return core::ptr::null_mut() };
            state.alive += 1;
            address as *mut u8
        }

        unsafe fn dealloc(&self, _: *mut u8, _: Layout) {
            let state = self.state();
            state.alive -= 1;
            if state.alive == 0 {
                state.front.reset();
                state.back.reset();
            }
        }

        unsafe fn realloc(&self, old: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
            let state = self.state();
            let address = old as usize;
            if state.front.resize_last(address, layout.size(), new_size)
                || state.back.resize_last(address, layout.size(), new_size)
            {
                return old;
            }
            // SAFETY: the caller promises that `new_size` is valid for the alignment.
            let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
            // SAFETY: `old` is alive and as long as `layout` says; the new piece is apart from it.
            unsafe {
                let to = self.alloc(new);
                if !to.is_null() {
                    core::ptr::copy_nonoverlapping(old, to, layout.size().min(new_size));
                    self.dealloc(old, layout);
                }
                to
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).expect("a valid layout")
    }

    #[test]
    fn pieces_are_aligned_and_apart() {
        let mut region = Region::new(3, 100);
        assert_eq!(region.allocate(layout(1, 1)), Ok(3));
        assert_eq!(region.allocate(layout(8, 8)), Ok(8));
        assert_eq!(region.allocate(layout(4, 4)), Ok(16));
    }

    #[test]
    fn a_full_region_says_how_much_is_missing_and_stays_as_it_was() {
        let mut region = Region::new(0, 16);
        assert_eq!(region.allocate(layout(20, 4)), Err(4));
        assert_eq!(region.allocate(layout(16, 4)), Ok(0));
        assert_eq!(region.allocate(layout(1, 1)), Err(1));
        assert_eq!(region.allocate(layout(isize::MAX as usize - 7, 8)).unwrap_err(), isize::MAX as usize - 7);
    }

    #[test]
    fn only_the_last_piece_is_resized_and_only_within_the_region() {
        let mut region = Region::new(0, 32);
        let first = region.allocate(layout(8, 8)).expect("room");
        let second = region.allocate(layout(8, 8)).expect("room");
        assert!(!region.resize_last(first, 8, 4));
        assert!(region.resize_last(second, 8, 24));
        assert!(!region.resize_last(second, 24, 25));
        assert!(region.resize_last(second, 24, 1));
        assert_eq!(region.allocate(layout(1, 1)), Ok(9));
        assert!(!region.resize_last(100, 4, 2), "an address of another region");
    }

    #[test]
    fn a_reset_region_starts_at_the_front() {
        let mut region = Region::new(8, 32);
        region.allocate(layout(24, 8)).expect("room");
        region.reset();
        assert_eq!(region.allocate(layout(24, 8)), Ok(8));
    }
}
