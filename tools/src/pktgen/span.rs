//! Ranges of addresses, ports and tags, as an operator writes them.
//!
//! | text | meaning |
//! |---|---|
//! | `192.0.2.1` | one |
//! | `192.0.2.1-192.0.2.9`, `1024-65535` | one after the other |
//! | `10.0.0.0/24` | every address of the prefix, one after the other |
//! | `~10.0.0.0/24`, `~1024-65535` | random ones |
//!
//! At most 2^32 - 1 values, in the lower 32 bits of an address.

use std::{
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

/// Why a range is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a number or address.
    #[error("`{0}` is neither {1} nor a range such as `{2}`")]
    Text(String, &'static str, &'static str),
    /// Last below first, or of another family.
    #[error("`{0}`: the end of a range must not be below its beginning, and of the same family")]
    Order(String),
    /// More values than a field has.
    #[error(
        "`{0}` has too many values: a range may vary the lower 32 bits of an address, /1 or longer for IPv4 and /97 or longer for IPv6"
    )]
    Wide(String),
    /// Above what the field holds.
    #[error("`{0}`: at most {1}")]
    Large(String, u32),
}

/// Consecutive numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Lowest.
    pub first: u32,
    /// How many, at least 1.
    pub count: u32,
    /// In random order, with repetition.
    pub random: bool,
}

impl Span {
    /// A single number.
    pub const fn one(first: u32) -> Self {
        Self { first, count: 1, random: false }
    }

    /// Reads numbers up to `most`.
    ///
    /// # Errors
    /// As said.
    pub fn parse(text: &str, most: u32) -> Result<Self, Error> {
        let bad = || Error::Text(text.into(), "a number", "1024-65535");
        let (random, body) = order(text);
        let (first, last) = body.split_once('-').unwrap_or((body, body));
        let number = |text: &str| u32::from_str(text.trim()).map_err(|_| bad());
        let (first, last) = (number(first)?, number(last)?);
        if last > most {
            return Err(Error::Large(text.into(), most));
        }
        let count = last.checked_sub(first).ok_or_else(|| Error::Order(text.into()))?;
        let count = count.checked_add(1).ok_or_else(|| Error::Wide(text.into()))?;
        Ok(Self { first, count, random })
    }
}

/// A port or range of ports.
///
/// # Errors
/// As [`Span::parse`].
pub fn ports(text: &str) -> Result<Span, Error> {
    Span::parse(text, u16::MAX.into())
}

/// A VLAN or range of VLANs.
///
/// # Errors
/// As [`Span::parse`].
pub fn vlans(text: &str) -> Result<Span, Error> {
    Span::parse(text, 4094)
}

/// Consecutive addresses: the lower 32 bits vary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The lowest.
    pub first: IpAddr,
    /// Of the lower 32 bits.
    pub span: Span,
}

impl Addresses {
    /// A single address.
    pub fn one(first: IpAddr) -> Self {
        Self { first, span: Span::one(low(first)) }
    }

    /// Whether they are of version 6.
    pub fn v6(&self) -> bool {
        self.first.is_ipv6()
    }

    /// Bytes of the lowest.
    pub fn octets(&self) -> Vec<u8> {
        match self.first {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        }
    }
}

impl FromStr for Addresses {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (random, body) = order(text);
        let address = |part: &str| {
            IpAddr::from_str(part.trim())
                .map_err(|_| Error::Text(text.into(), "an address", "192.0.2.1-192.0.2.9"))
        };
        let wide = || Error::Wide(text.into());
        let (first, count) = if let Some((base, length)) = body.split_once('/') {
            let base = address(base)?;
            let bits: u32 = if base.is_ipv4() { 32 } else { 128 };
            let length: u32 =
                length.parse().map_err(|_| Error::Text(text.into(), "a prefix", "10.0.0.0/24"))?;
            let host = bits.checked_sub(length).ok_or_else(|| Error::Large(text.into(), bits))?;
            let count = 1u32.checked_shl(host).ok_or_else(wide)?;
            (masked(base, count), count)
        } else {
            let (first, last) = body.split_once('-').unwrap_or((body, body));
            let (first, last) = (address(first)?, address(last)?);
            if first.is_ipv4() != last.is_ipv4() || last < first {
                return Err(Error::Order(text.into()));
            }
            let count = value(last) - value(first) + 1;
            (first, u32::try_from(count).map_err(|_| wide())?)
        };
        // The upper bits stand still.
        low(first).checked_add(count - 1).ok_or_else(wide)?;
        Ok(Self { first, span: Span { first: low(first), count, random } })
    }
}

fn order(text: &str) -> (bool, &str) {
    let text = text.trim();
    text.strip_prefix('~').map_or((false, text), |rest| (true, rest))
}

fn value(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn low(address: IpAddr) -> u32 {
    u32::try_from(value(address) & u128::from(u32::MAX)).unwrap_or(0)
}

/// The first address of the block of `count` (a power of two) that `address` is in.
fn masked(address: IpAddr, count: u32) -> IpAddr {
    match address {
        IpAddr::V4(address) => (u32::from(address) & !(count - 1)).to_be_bytes().into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !u128::from(count - 1)).into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> (String, u32, bool) {
        let found: Addresses = text.parse().unwrap();
        (found.first.to_string(), found.span.count, found.span.random)
    }

    #[test]
    fn what_operators_write() {
        assert_eq!(read("192.0.2.1"), ("192.0.2.1".into(), 1, false));
        assert_eq!(read("192.0.2.1-192.0.2.9"), ("192.0.2.1".into(), 9, false));
        assert_eq!(read("~10.1.2.3/8"), ("10.0.0.0".into(), 1 << 24, true));
        assert_eq!(read("2001:db8::5/112"), ("2001:db8::".into(), 1 << 16, false));
        assert_eq!(ports("~1-65535"), Ok(Span { first: 1, count: 65535, random: true }));
        assert_eq!(vlans("10"), Ok(Span::one(10)));
    }

    #[test]
    fn what_is_refused() {
        for text in ["", "x", "10.0.0.1-", "10.0.0.0/", "10.0.0.0/x", "~"] {
            assert!(matches!(text.parse::<Addresses>(), Err(Error::Text(..))), "{text}");
        }
        for text in ["10.0.0.2-10.0.0.1", "10.0.0.1-2001:db8::1"] {
            assert!(matches!(text.parse::<Addresses>(), Err(Error::Order(_))), "{text}");
        }
        for text in ["0.0.0.0/0", "2001:db8::/64", "::-::1:0:0", "::fff0:0:ffff:fff0-::fff0:1:0:0"] {
            assert!(matches!(text.parse::<Addresses>(), Err(Error::Wide(_))), "{text}");
        }
        assert!(matches!("10.0.0.0/33".parse::<Addresses>(), Err(Error::Large(..))));
        assert!(matches!(ports("65536"), Err(Error::Large(..))));
        assert!(matches!(vlans("4095"), Err(Error::Large(..))));
        assert!(matches!(ports("9-1"), Err(Error::Order(_))));
        assert!(matches!(Span::parse("0-4294967295", u32::MAX), Err(Error::Wide(_))));
    }

    proptest! {
        #[test]
        fn any_text(text in "[~0-9a-f:./-]{0,40}") {
            let _ = text.parse::<Addresses>();
            let _ = ports(&text);
        }
    }
}
