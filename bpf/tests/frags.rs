//! Frames of several buffers: headers that lie in the first are read there, others are left to the kernel.

mod common;

use afnet_bpf::Counter;
use common::{
    Bench, PORT, Verdict,
    frames::{Ip4, datagram, ipv6, udp},
};

/// More than one page, so that BPF_PROG_TEST_RUN makes a second buffer of the rest.
const LONG: usize = 8000;

#[test]
fn a_jumbo_datagram_is_judged_by_its_first_buffer() {
    let bench = Bench::new(true);
    let payload = udp(1, PORT, &[7; LONG]);
    let long4 = Ip4::new("192.0.2.99", "192.0.2.1", 17).frame(&payload);
    let long6 = ipv6("2001:db8::99", "2001:db8::1", 17, &payload);
    for frame in [&long4, &long6] {
        bench.expect("jumbo", frame, Verdict::Redirect, Counter::RedirectUdp);
        let cut = &frame[..frame.len() - 1];
        let counter = if frame[12] == 8 { Counter::PassIpv4Length } else { Counter::PassIpv6Length };
        bench.expect_pass("a byte is missing from the last buffer", cut, counter);
    }
}

#[test]
fn headers_beyond_the_first_buffer_are_left_to_the_kernel() {
    // Kernels before 6.18 make the first buffer as long as it can be; the verifier has checked the rest there.
    if kernel() < (6, 18) {
        return;
    }
    let bench = Bench::new(true);
    for to in ["192.0.2.1", "2001:db8::1"] {
        let frame = [datagram(to, PORT), vec![0; 200]].concat();
        let headers = 14 + if to.contains(':') { 40 } else { 20 } + 8;
        for linear in [14u32, 20, 33, 34, 41, 42, 53, 54, 61, 62, 100] {
            let before = bench.counters();
            let (verdict, bytes, _) = bench.raw_run(&frame, Some(linear), 1).expect("BPF_PROG_TEST_RUN");
            let counters = bench.counters();
            let (wanted, counter) = if (linear as usize) < headers {
                (Verdict::Pass, Counter::PassNonlinear)
            } else {
                (Verdict::Redirect, Counter::RedirectUdp)
            };
            assert_eq!((verdict, bytes), (wanted, frame.clone()), "{to} {linear}");
            assert_eq!(counters[counter as usize] - before[counter as usize], 1, "{to} {linear}");
        }
    }
}

/// Version of the running kernel.
fn kernel() -> (u32, u32) {
    let name = rustix::system::uname();
    let mut numbers =
        name.release().to_str().expect("ASCII").split('.').map(|n| n.parse().expect("a number"));
    (numbers.next().expect("major"), numbers.next().expect("minor"))
}
