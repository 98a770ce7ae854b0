//! Daemons that refuse, speak another language, or are not there: each is an error that says so, never a hang.

mod fake;

use std::time::{Duration, Instant};

use afnet_tenant::{AttachOptions, Endpoint, Error};
use fake::{Fake, attached, hello, line, refused};

fn attach(fake: &Fake) -> Error {
    let options = AttachOptions { instance: Some(fake.instance.clone()), ..AttachOptions::default() };
    let start = Instant::now();
    let error = Endpoint::attach(&options).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(4), "{error}");
    error
}

fn scripted(answers: &[(&[u8], usize)]) -> Error {
    attach(&Fake::scripted(answers.iter().map(|(a, n)| (a.to_vec(), *n)).collect()))
}

#[test]
fn no_daemon() {
    let options = AttachOptions { instance: Some("nobody-here".to_owned()), ..AttachOptions::default() };
    let error = Endpoint::attach(&options).unwrap_err();
    assert!(matches!(error, Error::NotRunning { .. }));
    assert!(error.to_string().contains("/run/afnet-nobody-here/afnetd.sock"), "{error}");
    assert_eq!(error.errno(), rustix::io::Errno::NOENT.raw_os_error());
}

#[test]
fn another_version() {
    let error = scripted(&[(&hello(99), 0)]);
    assert!(matches!(error, Error::Version { daemon: 99 }));
    assert!(error.to_string().contains("99") && error.to_string().contains("version 1"), "{error}");
}

#[test]
fn refusals_keep_their_errno() {
    let refusal = line(&refused("EPERM", 1));
    for answers in [&[(&refusal[..], 0)][..], &[(&hello(1), 0), (&refusal, 0)]] {
        let error = scripted(answers);
        assert!(matches!(error, Error::Refused(_)) && error.errno() == 1, "{error}");
    }
}

#[test]
fn answers_that_are_none() {
    let done = b"{\"ok\":\"done\"}\n";
    for first in [&b"\n"[..], b"nonsense\n", b"{\"ok\":{\"nonsense\":1}}\n", b"\xff\xfe\n", done] {
        assert!(matches!(scripted(&[(first, 0)]), Error::Protocol(_)), "{first:?}");
    }
    assert!(matches!(scripted(&[(&hello(1), 0), (done, 0)]), Error::Protocol(_)));
    let twice = [hello(1), hello(1)].concat();
    assert!(matches!(scripted(&[(&twice, 0)]), Error::Protocol(_)));
}

#[test]
fn a_line_without_end() {
    assert!(matches!(scripted(&[(&vec![b'x'; 2 << 20], 0)]), Error::Protocol(_)));
}

#[test]
fn a_daemon_that_hangs_up() {
    assert!(matches!(scripted(&[]), Error::Disconnected));
    assert!(matches!(scripted(&[(b"{\"ok\"", 0)]), Error::Disconnected));
    assert!(matches!(scripted(&[(&hello(1), 0)]), Error::Disconnected));
}

#[test]
fn descriptors_that_are_too_few_too_many_or_wrong() {
    for count in [0, 1, 2, 4] {
        let error = scripted(&[(&hello(1), 0), (&attached(1), count)]);
        assert!(matches!(error, Error::Protocol(_)), "{count}: {error}");
    }
    let error = scripted(&[(&hello(1), 0), (&attached(1), 150)]);
    assert!(matches!(error, Error::Protocol(_)), "{error}");
    assert!(matches!(scripted(&[(&hello(1), 1)]), Error::Protocol(_)), "with a greeting");
    // The right number, but eventfds all of them.
    let error = scripted(&[(&hello(1), 0), (&attached(1), 3)]);
    assert!(matches!(error, Error::Memory(_)), "{error}");
    let error = scripted(&[(&hello(1), 0), (&attached(u32::MAX), 3)]);
    assert!(matches!(error, Error::Protocol(_)), "{error}");
}

#[test]
fn no_descriptor_leaks() {
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    // Other tests open and close theirs meanwhile: look often, one clean look is enough.
    let before = count();
    for _ in 0..50 {
        scripted(&[(&hello(1), 0), (&attached(1), 60)]);
    }
    let clean = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        count() < before + 100
    });
    assert!(clean, "{} descriptors, {before} before", count());
}
