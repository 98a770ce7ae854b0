//! Blocks of fragment data: one allocation at the start, a free list through it.
//!
//! Indices come from this pool's own lists only, never from a packet.

#![deny(unsafe_code)]
#![allow(clippy::indexing_slicing, reason = "indices are made by `Pool::new` and handed out by `take` only")]

/// Bytes of data in a block: a full fragment of a 1500-byte link (1480) fits into one; larger ones take several.
pub const BLOCK: usize = 1536;
/// What a block counts in budgets: its data and its [`Block`].
pub const BLOCK_COST: usize = BLOCK + size_of::<Block>();
/// No block.
pub const NONE: u32 = u32::MAX;

/// A part of a fragment's data.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// The next of the same datagram in order of offset, or of the free list.
    pub next: u32,
    /// Offset of its first byte in the datagram.
    pub offset: u32,
    /// Bytes in use.
    pub len: u16,
    /// First block of a fragment.
    pub start: bool,
    /// The fragment had the more flag.
    pub more: bool,
}

impl Block {
    /// Offset behind its last byte.
    pub const fn end(&self) -> u32 {
        self.offset + self.len as u32
    }
}

/// The blocks.
#[derive(Debug)]
pub struct Pool {
    data: Vec<u8>,
    blocks: Vec<Block>,
    free: u32,
    available: usize,
}

impl Pool {
    /// `count` blocks. The memory is zero pages until used.
    pub fn new(count: u32) -> Self {
        let block = |n: u32| Block {
            next: if n + 1 < count { n + 1 } else { NONE },
            offset: 0,
            len: 0,
            start: false,
            more: false,
        };
        Self {
            data: vec![0; count as usize * BLOCK],
            blocks: (0..count).map(block).collect(),
            free: if count == 0 { NONE } else { 0 },
            available: count as usize,
        }
    }

    /// Blocks that are free.
    pub const fn available(&self) -> usize {
        self.available
    }

    /// Takes a free block and fills it; `data` has at most [`BLOCK`] bytes.
    pub fn take(&mut self, offset: u32, data: &[u8], start: bool, more: bool) -> Option<u32> {
        let n = self.free;
        let len = u16::try_from(data.len()).ok()?;
        let block = self.blocks.get_mut(n as usize)?;
        self.free = block.next;
        *block = Block { next: NONE, offset, len, start, more };
        self.available -= 1;
        let at = n as usize * BLOCK;
        self.data[at..at + data.len()].copy_from_slice(data);
        Some(n)
    }

    /// Gives back the list that starts at `first`; the number of blocks in it.
    pub fn release(&mut self, first: u32) -> usize {
        let mut count = 0;
        let mut n = first;
        while n != NONE {
            let next = self.blocks[n as usize].next;
            self.blocks[n as usize].next = self.free;
            self.free = n;
            n = next;
            count += 1;
        }
        self.available += count;
        count
    }

    /// A block's fields.
    pub fn block(&self, n: u32) -> Block {
        self.blocks[n as usize]
    }

    /// A block's data.
    pub fn bytes(&self, n: u32) -> &[u8] {
        let at = n as usize * BLOCK;
        &self.data[at..at + usize::from(self.blocks[n as usize].len)]
    }

    /// Makes `next` follow `n`.
    pub fn link(&mut self, n: u32, next: u32) {
        self.blocks[n as usize].next = next;
    }
}
