//! The C interface: the header compiles as C and C++ with the layouts the library has, and examples/echo.c, built the
//! way the header says, serves.

mod fake;

use std::{
    env,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use fake::{Config, Fake, Served, first_line};

const MANIFEST: &str = env!("CARGO_MANIFEST_DIR");

/// Ends the child with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn c_compiler(compiler: &str) -> Command {
    let mut command = Command::new(compiler);
    command.args(["-Wall", "-Wextra", "-Werror", "-I"]).arg(Path::new(MANIFEST).join("include"));
    command
}

/// The static library, by the header's own recipe.
fn library() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_owned();
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Command::new(cargo)
        .args(["rustc", "--quiet", "--offline", "--package", "afnet-tenant", "--lib"])
        .args(["--features", "capi", "--crate-type", "staticlib", "--target-dir"])
        .arg(&target)
        .current_dir(MANIFEST));
    target.join("debug/libafnet_tenant.a")
}

/// examples/echo.c, built once.
fn echo_example() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(build)
}

fn build() -> PathBuf {
    let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join("echo-c");
    run(c_compiler("cc")
        .arg("-std=c11")
        .arg(Path::new(MANIFEST).join("examples/echo.c"))
        .arg(library())
        .args(["-lpthread", "-ldl", "-lm", "-o"])
        .arg(&binary));
    binary
}

/// Waits for what the tenant sends by the ring.
fn sent(served: &mut Served) -> Vec<Vec<u8>> {
    let begin = Instant::now();
    loop {
        let sent = served.take(0);
        if !sent.is_empty() {
            return sent.into_iter().map(|(_, payload)| payload).collect();
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "no answer");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_example_echoes_by_ring_and_by_kernel() {
    let binary = echo_example();
    let fake = Fake::start(Config::default());
    let mut child = Command::new(binary)
        .args([&fake.instance, "c", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .map(Running)
        .unwrap();
    let ready = first_line(child.0.stdout.take().unwrap());
    let port: u16 = ready.trim().strip_prefix("ready: port ").unwrap().parse().unwrap();
    let mut served = fake.attached();
    for round in 0..20u8 {
        served.deliver(0, &[round; 1400]);
        assert_eq!(sent(&mut served), [[round; 1400]]);
    }
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut buffer = [0; 64];
    let mut by_kernel = |text: &[u8]| {
        peer.send_to(text, ("127.0.0.1", port)).unwrap();
        let n = peer.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], text);
    };
    by_kernel(b"beside the ring");
    fake.hide();
    served.die();
    by_kernel(b"without a daemon");
}

#[test]
fn the_example_says_what_is_wrong() {
    let binary = echo_example();
    let output = Command::new(binary).arg("nobody-here").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("/run/afnet-nobody-here/afnetd.sock"), "{text}");
    let fake = Fake::start(Config { taken: Some(9), ..Config::default() });
    let output = Command::new(binary).args([&fake.instance, "c", "9"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("claim: afnetd refuses"), "{text}");
}

#[test]
fn the_header_has_the_librarys_layouts() {
    // The same numbers stand in src/capi.rs.
    let source = r#"
        #include <afnet.h>
        #ifdef __cplusplus
        #define _Static_assert static_assert
        #endif
        #define AT(field, offset) _Static_assert(offsetof(struct afnet_msg, field) == offset, #field)
        _Static_assert(sizeof(union afnet_addr) == 28, "size");
        _Static_assert(sizeof(struct afnet_options) == 48, "size");
        _Static_assert(offsetof(struct afnet_options, kind) == 32, "kind");
        _Static_assert(sizeof(struct afnet_msg) == 112, "size");
        AT(local, 16); AT(remote, 44); AT(timestamp_ns, 72); AT(kind, 80); AT(flags, 84); AT(ifindex, 88);
        AT(vlan, 92); AT(mtu, 96); AT(error, 100); AT(segment, 104); AT(ttl, 106); AT(tos, 107);
        int main(void) { return 0; }
    "#;
    for (language, compiler) in [("c", "cc"), ("cpp", "clang++")] {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("layout.{language}"));
        std::fs::write(&file, source).unwrap();
        run(c_compiler(compiler).arg("-fsyntax-only").arg(file));
    }
}
