//! The keyword part of `afnet addr`: an address and pairs of keyword and value in any order, as ip(8) has them.

use std::net::IpAddr;
use std::time::Duration;

use afnet_abi::control::{AddressSpec, Defend, Request};
use afnet_abi::vlan::Vlan;
use clap::Args;

/// Words as they stand on the command line.
#[derive(Clone, Debug, Default, Args)]
pub struct Words {
    /// ADDR/LEN, and keywords with their values.
    #[arg(value_name = "WORD")]
    words: Vec<String>,
    /// The keyword `fast-only` as an option.
    #[arg(long, hide = true)]
    fast_only: bool,
    /// The keyword `delegated` as an option.
    #[arg(long, hide = true)]
    delegated: bool,
    /// The keyword `nodad` as an option.
    #[arg(long, hide = true)]
    nodad: bool,
    /// The keyword `nowait` as an option.
    #[arg(long, hide = true, conflicts_with = "wait")]
    nowait: bool,
    /// What is done without it, too.
    #[arg(long, hide = true)]
    wait: bool,
}

/// What the words say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressWords {
    address: Option<(IpAddr, Option<u8>)>,
    dev: Option<String>,
    vlan: Option<Vlan>,
    name: Option<String>,
    fast_only: bool,
    delegated: bool,
    nodad: bool,
    defend: Option<Defend>,
    /// Seconds.
    wait: Option<u32>,
}

/// How long `afnet addr add` waits to know whether another host has the address, in seconds. It takes 7 at most, and 2
/// for IPv6; but the device may be down, or an address that has failed ten times be kept waiting.
pub const WAIT: u32 = 30;

/// Keywords, the shorter first where one is the other's beginning.
const KEYWORDS: &[&str] = &[
    "dev",
    "vlan",
    "proto",
    "protocol",
    "afnetns",
    "fast-only",
    "delegated",
    "defend",
    "nodad",
    "nowait",
    "wait",
    "local",
    "address",
];

/// The keyword that a word is or uniquely begins.
fn keyword(word: &str) -> Option<&'static str> {
    if let Some(exact) = KEYWORDS.iter().find(|k| **k == word) {
        return Some(exact);
    }
    let mut fitting = KEYWORDS.iter().filter(|k| k.starts_with(word));
    let first = fitting.next()?;
    // `pro` begins `proto` and `protocol`, which mean the same.
    fitting.all(|k| k.starts_with(*first)).then_some(first)
}

impl AddressWords {
    /// Reads words; says what is wrong with them.
    pub fn parse(words: &Words) -> Result<Self, String> {
        let mut this = Self {
            fast_only: words.fast_only,
            delegated: words.delegated,
            nodad: words.nodad,
            wait: words.nowait.then_some(0),
            ..Self::default()
        };
        let mut outer = None;
        let mut rest = words.words.iter();
        while let Some(word) = rest.next() {
            // Addresses hold digits, dots or colons; no keyword does.
            let Some(key) = keyword(word) else {
                this.set_address(word)?;
                continue;
            };
            let mut value = || rest.next().ok_or(format!("`{key}` wants a value"));
            match key {
                "dev" => set(&mut this.dev, value()?.clone(), key)?,
                "afnetns" => set(&mut this.name, value()?.clone(), key)?,
                "vlan" => {
                    let text = value()?;
                    let vlan = text.parse().map_err(|e| format!("bad VLAN {text:?}: {e}"))?;
                    set(&mut this.vlan, vlan, key)?;
                }
                "proto" | "protocol" => {
                    let is_outer = match value()?.to_ascii_lowercase().as_str() {
                        "802.1q" => false,
                        "802.1ad" => true,
                        other => return Err(format!("bad VLAN protocol {other:?}: 802.1q or 802.1ad")),
                    };
                    set(&mut outer, is_outer, key)?;
                }
                "defend" => {
                    let policy = match value()?.as_str() {
                        "a" => Defend::GiveUp,
                        "b" => Defend::Once,
                        "c" => Defend::Always,
                        other => return Err(format!("bad policy {other:?}: a, b or c (RFC 5227 2.4)")),
                    };
                    set(&mut this.defend, policy, key)?;
                }
                "wait" => {
                    let text = value()?;
                    let seconds = text.parse().map_err(|_| format!("bad time {text:?}: seconds"))?;
                    set(&mut this.wait, seconds, key)?;
                }
                "nowait" => set(&mut this.wait, 0, "wait` or `nowait")?,
                "nodad" => this.nodad = true,
                "fast-only" => this.fast_only = true,
                "delegated" => this.delegated = true,
                _ => this.set_address(value()?)?,
            }
        }
        match (outer, this.vlan) {
            (None | Some(false), _) => {}
            (Some(true), None) => return Err("`proto` belongs to a `vlan`".to_owned()),
            (Some(true), Some(vlan)) => {
                let single = vlan.inner().filter(|_| vlan.outer().is_none());
                let id = single.ok_or(format!("`proto 802.1ad` goes with one VLAN id, not with {vlan}"))?;
                this.vlan = Some(Vlan::new(Some(id), None).map_err(|e| e.to_string())?);
            }
        }
        Ok(this)
    }

    fn set_address(&mut self, text: &str) -> Result<(), String> {
        let bad = |why: &str| format!("bad address {text:?}: {why}");
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => {
                let len =
                    len.parse::<u8>().map_err(|_| bad("the prefix length is no number from 0 to 128"))?;
                (address, Some(len))
            }
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| bad("neither an IPv4 or IPv6 address nor a keyword (dev, vlan, afnetns ...)"))?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if len.is_some_and(|len| len > bits) {
            return Err(bad(&format!("the prefix length is at most {bits}")));
        }
        set(&mut self.address, (address, len), "an address")
    }

    fn spec(self, family: Option<u8>) -> Result<(AddressSpec, Option<String>), String> {
        let (address, len) = self.address.ok_or("an address is missing: ADDR/LEN")?;
        if family.is_some_and(|f| address.is_ipv4() != (f == 4)) {
            return Err(format!("{address} is not of the family that was asked for"));
        }
        let spec = AddressSpec {
            address,
            prefix_len: len.unwrap_or(if address.is_ipv4() { 32 } else { 128 }),
            dev: self.dev.ok_or("the device is missing: dev DEV")?,
            vlan: self.vlan.unwrap_or_default(),
            delegated: self.delegated,
            fast_only: self.fast_only,
            defend: self.defend,
            nodad: self.nodad,
        };
        Ok((spec, self.name))
    }

    /// How long to wait for the address to be usable: 0 seconds for not at all.
    pub fn wait(&self) -> Duration {
        Duration::from_secs(self.wait.unwrap_or(WAIT).into())
    }

    /// For `add` and `move`: address and owner.
    pub fn to_add(self, family: Option<u8>) -> Result<(AddressSpec, String), String> {
        let (spec, name) = self.spec(family)?;
        Ok((spec, name.ok_or("the compartment is missing: afnetns NAME")?))
    }

    /// For `del`: address, and owner if given.
    pub fn to_del(self, family: Option<u8>) -> Result<(AddressSpec, Option<String>), String> {
        self.spec(family)
    }

    /// For `list`: what must match.
    pub fn to_list(self, family: Option<u8>) -> Result<Request, String> {
        let others = self.fast_only || self.delegated || self.nodad;
        if self.address.is_some() || others || self.defend.is_some() || self.wait.is_some() {
            return Err("`addr list` takes dev, vlan and afnetns".to_owned());
        }
        Ok(Request::AddrList { name: self.name, dev: self.dev, vlan: self.vlan, family })
    }
}

fn set<T>(slot: &mut Option<T>, value: T, what: &str) -> Result<(), String> {
    if slot.replace(value).is_some() {
        return Err(format!("`{what}` is said twice"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<AddressWords, String> {
        let words = line.split_whitespace().map(str::to_owned).collect();
        AddressWords::parse(&Words { words, ..Words::default() })
    }

    #[test]
    fn the_grammar_of_the_patches() {
        let (spec, name) = parse("192.0.2.10/24 dev eth0 afnetns afns-1").unwrap().to_add(None).unwrap();
        assert_eq!((spec.address.to_string(), spec.prefix_len), ("192.0.2.10".to_owned(), 24));
        assert_eq!((spec.dev.as_str(), name.as_str()), ("eth0", "afns-1"));
        assert!(!spec.delegated && !spec.fast_only && spec.vlan == Vlan::NONE);
        // Any order, abbreviated, both ways to say 802.1ad.
        for line in [
            "afn a fast vlan 5 proto 802.1ad d eth0 2001:db8::1",
            "2001:db8::1/128 dev eth0 vlan ad:5 afnetns a fast-only",
            "local 2001:db8::1 vlan 5 protocol 802.1AD dev eth0 afnetns a fast-only",
        ] {
            let parsed = parse(line);
            if line.contains(" d eth0") {
                assert!(parsed.unwrap_err().contains("neither"), "`d` begins dev and delegated");
                continue;
            }
            let (spec, name) = parsed.unwrap().to_add(Some(6)).unwrap();
            assert_eq!((spec.prefix_len, spec.vlan.to_string().as_str(), name.as_str()), (128, "ad:5", "a"));
            assert!(spec.fast_only);
        }
    }

    #[test]
    fn duplicates_are_asked_for_unless_said_otherwise() {
        let plain = parse("192.0.2.1/24 dev a afnetns b").unwrap();
        assert_eq!(plain.wait(), Duration::from_secs(WAIT.into()));
        let (spec, _) = plain.to_add(None).unwrap();
        assert_eq!((spec.nodad, spec.defend), (false, None));
        let all = parse("192.0.2.1/24 dev a afnetns b nodad defend c wait 5").unwrap();
        assert_eq!(all.wait(), Duration::from_secs(5));
        let (spec, _) = all.to_add(None).unwrap();
        assert_eq!((spec.nodad, spec.defend), (true, Some(Defend::Always)));
        assert_eq!(parse("192.0.2.1/24 dev a afnetns b nowait").unwrap().wait(), Duration::ZERO);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, why) in [
            ("", "address is missing"),
            ("192.0.2.1", "device is missing"),
            ("192.0.2.1 dev", "wants a value"),
            ("192.0.2.1 dev a dev b", "twice"),
            ("192.0.2.1 192.0.2.2 dev a", "twice"),
            ("192.0.2.1/33 dev a", "at most 32"),
            ("192.0.2.1/x dev a", "no number"),
            ("192.0.2 dev a", "neither"),
            ("192.0.2.1 dev a vlan 4095", "bad VLAN"),
            ("192.0.2.1 dev a proto 802.1ad", "belongs to a `vlan`"),
            ("192.0.2.1 dev a vlan 1.2 proto 802.1ad", "goes with one"),
            ("192.0.2.1 dev a vlan 1 proto 1", "802.1q or 802.1ad"),
            ("192.0.2.1 dev a", "compartment is missing"),
            ("192.0.2.1 dev a defend d", "a, b or c"),
            ("192.0.2.1 dev a wait long", "bad time"),
            ("192.0.2.1 dev a nowait wait 5", "twice"),
        ] {
            let error = parse(line).and_then(|w| w.to_add(None)).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
        assert!(parse("192.0.2.1 dev a afnetns b").unwrap().to_add(Some(6)).is_err());
        assert!(parse("192.0.2.1").unwrap().to_list(None).is_err());
        assert!(parse("dev a nodad").unwrap().to_list(None).is_err());
    }
}
