//! The VLAN part of a realm (realm = device + VLAN).
//!
//! ```text
//!  31      24 23          12 11           0
//! +----------+--------------+--------------+
//! |    0     | S-VID 802.1ad| C-VID 802.1Q |
//! +----------+--------------+--------------+
//! ```
//!
//! 0 in a field: the frame has no such tag, or a priority tag (VID 0), which IEEE 802.1Q 6.9 treats as
//! untagged. The XDP program computes the same number from a frame (`bpf/prog/parse.h`).

use core::{fmt, str::FromStr};

/// Tags that select a realm on a device. `Vlan::NONE` is the untagged realm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Vlan(u32);

/// Why a VLAN was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidVlan;

impl fmt::Display for InvalidVlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a VLAN is N (802.1Q), ad:N (802.1ad) or OUTER.INNER (802.1Q within 802.1ad), each id 1..=4094",
        )
    }
}

impl core::error::Error for InvalidVlan {}

impl Vlan {
    /// The untagged realm.
    pub const NONE: Self = Self(0);

    /// Tags `outer` (802.1ad) and `inner` (802.1Q); `None` where the frame has no such tag.
    pub fn new(outer: Option<u16>, inner: Option<u16>) -> Result<Self, InvalidVlan> {
        let id = |vid: Option<u16>| match vid {
            None => Ok(0),
            Some(v @ 1..=4094) => Ok(u32::from(v)),
            Some(_) => Err(InvalidVlan),
        };
        Ok(Self(id(outer)? << 12 | id(inner)?))
    }

    /// The number that BPF map keys and shared memory hold.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// From the number; bits outside of the two VIDs are refused.
    pub fn from_raw(raw: u32) -> Result<Self, InvalidVlan> {
        let vid = |v: u32| u16::try_from(v & 0xfff).ok().filter(|v| *v != 0);
        if raw >> 24 != 0 {
            return Err(InvalidVlan);
        }
        Self::new(vid(raw >> 12), vid(raw))
    }

    /// S-VID of the 802.1ad tag, if there is one.
    pub fn outer(self) -> Option<u16> {
        u16::try_from(self.0 >> 12 & 0xfff).ok().filter(|v| *v != 0)
    }

    /// C-VID of the 802.1Q tag, if there is one.
    pub fn inner(self) -> Option<u16> {
        u16::try_from(self.0 & 0xfff).ok().filter(|v| *v != 0)
    }

    /// Bytes that the tags add to a frame: 0, 4 or 8.
    pub fn header_len(self) -> usize {
        4 * (usize::from(self.outer().is_some()) + usize::from(self.inner().is_some()))
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.outer(), self.inner()) {
            (None, None) => f.write_str("none"),
            (None, Some(c)) => write!(f, "{c}"),
            (Some(s), None) => write!(f, "ad:{s}"),
            (Some(s), Some(c)) => write!(f, "{s}.{c}"),
        }
    }
}

impl FromStr for Vlan {
    type Err = InvalidVlan;

    fn from_str(s: &str) -> Result<Self, InvalidVlan> {
        let vid = |s: &str| s.parse::<u16>().map(Some).map_err(|_| InvalidVlan);
        if s == "none" {
            Ok(Self::NONE)
        } else if let Some(outer) = s.strip_prefix("ad:") {
            Self::new(vid(outer)?, None)
        } else if let Some((outer, inner)) = s.split_once('.') {
            Self::new(vid(outer)?, vid(inner)?)
        } else {
            Self::new(None, vid(s)?)
        }
    }
}

#[cfg(feature = "control")]
impl serde::Serialize for Vlan {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(feature = "control")]
impl<'de> serde::Deserialize<'de> for Vlan {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = alloc::string::String::deserialize(d)?;
        s.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn text_and_number_round_trip() {
        for text in ["none", "1", "4094", "ad:7", "10.100"] {
            let vlan: Vlan = text.parse().unwrap();
            assert_eq!(vlan.to_string(), text);
            assert_eq!(Vlan::from_raw(vlan.raw()).unwrap(), vlan);
        }
        assert_eq!("10.100".parse::<Vlan>().unwrap().header_len(), 8);
    }

    #[test]
    fn bad_ids_are_refused() {
        for text in ["0", "4095", "", "1.", ".1", "ad:0", "-1", "1.2.3", "x"] {
            assert_eq!(text.parse::<Vlan>(), Err(InvalidVlan), "{text}");
        }
        assert_eq!(Vlan::from_raw(1 << 24), Err(InvalidVlan));
    }
}
