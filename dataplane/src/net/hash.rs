//! Keyed hash for the bounded tables: peers choose addresses and identifications, so they must not be able to
//! choose buckets. Folded 64x64 multiplications under secret keys: not a cryptographic hash, and its output never
//! leaves the process except as fragment identifications, which [`super::fragment::Ids`] mixes with counters.

#![deny(unsafe_code)]

use super::Address;

/// A secret key. Clones hash alike.
#[derive(Clone)]
pub struct Key([u64; 4]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// A key from the operating system's randomness (through the standard library's hasher).
    pub fn random() -> Self {
        use std::hash::{BuildHasher, RandomState};
        let state = RandomState::new();
        Self([0u64, 1, 2, 3].map(|n| state.hash_one(n)))
    }

    /// A key for reproducible tests and fuzzing.
    pub const fn fixed(seed: u64) -> Self {
        Self([
            seed ^ 0x243f_6a88_85a3_08d3,
            seed ^ 0x1319_8a2e_0370_7344,
            seed ^ 0xa409_3822_299f_31d0,
            seed ^ 0x082e_fa98_ec4e_6c89,
        ])
    }

    /// Hash of two addresses and a number.
    #[inline]
    pub fn hash(&self, a: &Address, b: &Address, n: u64) -> u64 {
        let [k0, k1, k2, k3] = self.0;
        let (a0, a1) = halves(a);
        let (b0, b1) = halves(b);
        let h = fold(a0 ^ k0, a1 ^ k1) ^ fold(b0 ^ k2, b1 ^ k3).rotate_left(23);
        fold(h ^ k1, n ^ k2) ^ fold(h.rotate_left(32) ^ n ^ k0, k3 | 1)
    }
}

#[inline]
fn halves(a: &Address) -> (u64, u64) {
    let n = u128::from_le_bytes(*a);
    (low64(n), low64(n >> 64))
}

#[inline]
const fn low64(n: u128) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = n.to_le_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[inline]
const fn fold(a: u64, b: u64) -> u64 {
    let n = a as u128 * b as u128;
    low64(n) ^ low64(n >> 64)
}

#[cfg(test)]
mod tests {
    use super::Key;
    use crate::net::mapped;

    #[test]
    fn one_bit_changes_the_bucket() {
        let key = Key::random();
        let base = key.hash(&mapped([10, 0, 0, 1]), &mapped([10, 0, 0, 2]), 7);
        assert_eq!(base, key.clone().hash(&mapped([10, 0, 0, 1]), &mapped([10, 0, 0, 2]), 7));
        assert_ne!(base, key.hash(&mapped([10, 0, 0, 2]), &mapped([10, 0, 0, 1]), 7));
        // 4096 neighbours over 256 buckets: none holds more than a few times its share.
        let mut buckets = [0u32; 256];
        for n in 0..4096u32 {
            let [_, _, c, d] = n.to_be_bytes();
            let h = key.hash(&mapped([10, 0, 0, 1]), &mapped([10, 1, c, d]), 7);
            buckets[usize::try_from(h & 0xff).unwrap()] += 1;
        }
        assert!(*buckets.iter().max().unwrap() < 64);
    }
}
