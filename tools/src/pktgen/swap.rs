//! Turning a frame round: what a reflector does to it.
//!
//! Swapping addresses and ports changes no sum, so checksums stay right.

use crate::stamp;

/// What is swapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Layer {
    /// MAC addresses
    #[default]
    Ethernet,
    /// MAC addresses, IP addresses and ports of UDP and TCP
    Transport,
}

/// Swaps in place. False if the frame has no such addresses; it may be changed in part then.
#[inline]
pub fn swap(frame: &mut [u8], layer: Layer) -> bool {
    if frame.len() < 14 {
        return false;
    }
    let (destination, rest) = frame.split_at_mut(6);
    destination.swap_with_slice(&mut rest[..6]);
    if layer == Layer::Ethernet {
        return true;
    }
    let Some((at, 6 | 17, _)) = stamp::transport(frame) else { return false };
    let (Some(net), Some(_)) = (net(frame), frame.get(at..at + 4)) else { return false };
    let (addresses, length) = if frame[net] >> 4 == 6 { (net + 8, 16) } else { (net + 12, 4) };
    for (at, length) in [(addresses, length), (at, 2)] {
        let (source, rest) = frame[at..at + 2 * length].split_at_mut(length);
        source.swap_with_slice(rest);
    }
    true
}

/// Where the IP header is, in a frame with a transport header.
fn net(frame: &[u8]) -> Option<usize> {
    let mut at = 12;
    while matches!(frame.get(at..at + 2)?, [0x81, 0] | [0x88, 0xa8]) {
        at += 4;
    }
    Some(at + 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use afnet_tests::packet::{read_udp, udp};

    #[test]
    fn udp_both_ways() {
        for (a, b) in [("192.0.2.1:1", "192.0.2.2:2"), ("[2001:db8::1]:1", "[2001:db8::2]:2")] {
            let macs = ([2; 6], [4; 6]);
            let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
            let mut frame = udp(macs, a, b, b"payload");
            assert!(swap(&mut frame, Layer::Transport));
            let back = read_udp(&frame).expect("right sums");
            assert_eq!((back.macs, back.source, back.destination), ((macs.1, macs.0), b, a));
            assert!(swap(&mut frame, Layer::Ethernet));
            assert_eq!(read_udp(&frame).unwrap().macs, macs);
        }
    }

    proptest! {
        #[test]
        fn any_frame(mut frame in proptest::collection::vec(any::<u8>(), 0..100), kind in 0..3usize) {
            if let Some(place) = frame.get_mut(12..14) {
                place.copy_from_slice(&[[8, 0], [0x86, 0xdd], [0x81, 0]][kind]);
            }
            swap(&mut frame, Layer::Transport);
        }
    }
}
